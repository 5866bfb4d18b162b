// Licensed under the Apache License, Version 2.0; see LICENSE.

//! grpc-auth asks a gRPC service about each request, and holds the request until it
//! answers.

use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::{Action, LogLevel};
use std::time::Duration;

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_http_context(|_, _| -> Box<dyn HttpContext> { Box::new(Auth) });
}}

struct Auth;

impl Context for Auth {
    fn on_grpc_call_response(&mut self, _: u32, status: u32, size: usize) {
        log::info!("status {status}, {size} bytes");
        if status == 0 {
            self.resume_http_request();
            return;
        }
        self.send_http_response(403, vec![], Some(b"Access forbidden.\n"));
    }
}

impl HttpContext for Auth {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        let token = self.get_http_request_header("x-token").unwrap_or_default();
        let metadata = vec![("x-token", token.as_bytes())];
        match self.dispatch_grpc_call("grpc", "auth.Auth", "Check", metadata, None, Duration::from_secs(5)) {
            Ok(_) => Action::Pause,
            Err(status) => {
                log::error!("no call: {status:?}");
                self.send_http_response(500, vec![], None);
                Action::Pause
            }
        }
    }
}
