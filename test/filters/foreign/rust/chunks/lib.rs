// Licensed under the Apache License, Version 2.0; see LICENSE.

//! chunks changes bodies and trailers as they pass, a chunk at a time.

use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;

proxy_wasm::main! {{
    proxy_wasm::set_http_context(|_, _| -> Box<dyn HttpContext> { Box::<Chunks>::default() });
}}

#[derive(Default)]
struct Chunks {
    request: usize,
    response: usize,
}

impl Context for Chunks {}

impl HttpContext for Chunks {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        self.set_http_request_header("content-length", None);
        Action::Continue
    }

    fn on_http_request_body(&mut self, size: usize, _: bool) -> Action {
        self.request += size;
        if let Some(chunk) = self.get_http_request_body(0, size) {
            self.set_http_request_body(0, size, format!("[{}]", String::from_utf8_lossy(&chunk)).as_bytes());
        }
        Action::Continue
    }

    fn on_http_request_trailers(&mut self, count: usize) -> Action {
        self.set_http_request_trailer("x-size", Some(&format!("{} {count}", self.request)));
        Action::Continue
    }

    fn on_http_response_headers(&mut self, _: usize, _: bool) -> Action {
        self.set_http_response_header("content-length", None);
        Action::Continue
    }

    fn on_http_response_body(&mut self, size: usize, end: bool) -> Action {
        self.response += size;
        let mark = if end { b"." } else { b"," };
        self.set_http_response_body(size, 0, mark);
        Action::Continue
    }

    fn on_http_response_trailers(&mut self, _: usize) -> Action {
        self.add_http_response_trailer("x-size", &self.response.to_string());
        self.set_http_response_trailer("x-removed", None);
        Action::Continue
    }
}
