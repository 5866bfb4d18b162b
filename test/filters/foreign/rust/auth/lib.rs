// Licensed under the Apache License, Version 2.0; see LICENSE.

//! auth asks a service about each request, and holds the request until it answers.

use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::{Action, LogLevel};
use std::time::Duration;

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_http_context(|_, _| -> Box<dyn HttpContext> { Box::new(Auth) });
}}

struct Auth;

impl Context for Auth {
    fn on_http_call_response(&mut self, _: u32, headers: usize, body_size: usize, _: usize) {
        log::info!("answer with {headers} headers");
        let body = self.get_http_call_response_body(0, body_size).unwrap_or_default();
        if self.get_http_call_response_header(":status").as_deref() == Some("200") && body == b"allow" {
            self.resume_http_request();
            return;
        }
        self.send_http_response(403, vec![("x-denied-by", "auth")], Some(b"Access forbidden.\n"));
    }
}

impl HttpContext for Auth {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        let path = self.get_http_request_header(":path").unwrap_or_default();
        let question = vec![(":method", "POST"), (":path", path.as_str()), (":authority", "auth")];
        match self.dispatch_http_call("callouts", question, Some(b"may it?"), vec![], Duration::from_secs(5)) {
            Ok(_) => Action::Pause,
            Err(status) => {
                log::error!("no call-out: {status:?}");
                self.send_http_response(500, vec![], None);
                Action::Pause
            }
        }
    }

    fn on_http_response_headers(&mut self, _: usize, _: bool) -> Action {
        self.set_http_response_header("x-auth", Some("passed"));
        Action::Continue
    }
}
