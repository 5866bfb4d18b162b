// Licensed under the Apache License, Version 2.0; see LICENSE.

//! headers changes headers in all the ways there are.

use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::{Action, LogLevel};

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_http_context(|_, _| -> Box<dyn HttpContext> { Box::new(Headers) });
}}

struct Headers;

impl Context for Headers {}

impl HttpContext for Headers {
    fn on_http_request_headers(&mut self, count: usize, _: bool) -> Action {
        log::info!("{count} request headers");
        for (name, value) in self.get_http_request_headers() {
            log::info!("{name}: {value}");
        }
        self.add_http_request_header("x-added", "one");
        self.add_http_request_header("x-added", "two");
        self.set_http_request_header("x-replaced", Some("new"));
        self.set_http_request_header("x-removed", None);
        Action::Continue
    }

    fn on_http_response_headers(&mut self, _: usize, _: bool) -> Action {
        let status = self.get_http_response_header(":status").unwrap_or_default();
        self.add_http_response_header("x-status", &status);
        self.set_http_response_header("server", Some("rust"));
        self.set_http_response_header("x-powered-by", None);
        Action::Continue
    }
}
