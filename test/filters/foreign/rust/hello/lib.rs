// Licensed under the Apache License, Version 2.0; see LICENSE.

//! hello logs what happens in its life.

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel};

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Trace);
    proxy_wasm::set_root_context(|_| -> Box<dyn RootContext> { Box::new(Hello) });
}}

struct Hello;

impl Context for Hello {}

impl RootContext for Hello {
    fn on_vm_start(&mut self, size: usize) -> bool {
        log::info!("hello, world: {size} bytes for the VM");
        true
    }

    fn on_configure(&mut self, size: usize) -> bool {
        log::warn!("{size} bytes for the plugin");
        true
    }

    fn create_http_context(&self, _: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Stream))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

struct Stream;

impl Context for Stream {
    fn on_done(&mut self) -> bool {
        log::trace!("done");
        true
    }
}

impl HttpContext for Stream {
    fn on_http_request_headers(&mut self, _: usize, end: bool) -> Action {
        if let Some(name) = self.get_http_request_header("x-name") {
            log::debug!("hello, {name}: {end}");
        }
        if self.get_http_request_header("x-secret").is_none() {
            self.send_http_response(401, vec![("www-authenticate", "secret")], Some(b"say the secret\n"));
            return Action::Pause;
        }
        Action::Continue
    }

    fn on_log(&mut self) {
        log::error!("logged");
    }
}
