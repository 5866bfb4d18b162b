// Licensed under the Apache License, Version 2.0; see LICENSE.

//! body waits for a whole body, and replaces, appends to or prepends to it, as its
//! configuration says.

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType};

proxy_wasm::main! {{
    proxy_wasm::set_root_context(|_| -> Box<dyn RootContext> { Box::<Root>::default() });
}}

#[derive(Clone, Copy, Default)]
enum Change {
    #[default]
    Replace,
    Append,
    Prepend,
}

#[derive(Default)]
struct Root {
    change: Change,
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _: usize) -> bool {
        self.change = match self.get_plugin_configuration().as_deref() {
            None | Some(b"replace") => Change::Replace,
            Some(b"append") => Change::Append,
            Some(b"prepend") => Change::Prepend,
            Some(_) => return false,
        };
        true
    }

    fn create_http_context(&self, _: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Body { change: self.change }))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

struct Body {
    change: Change,
}

impl Context for Body {}

impl HttpContext for Body {
    fn on_http_request_headers(&mut self, _: usize, end: bool) -> Action {
        if end {
            return Action::Continue;
        }
        self.set_http_request_header("content-length", None);
        Action::Continue
    }

    fn on_http_request_body(&mut self, size: usize, end: bool) -> Action {
        if !end {
            return Action::Pause;
        }
        match self.change {
            Change::Replace => self.set_http_request_body(0, size, b"replaced"),
            Change::Append => self.set_http_request_body(size, 0, b" appended"),
            Change::Prepend => self.set_http_request_body(0, 0, b"prepended "),
        }
        Action::Continue
    }

    fn on_http_response_headers(&mut self, _: usize, _: bool) -> Action {
        self.set_http_response_header("content-length", None);
        Action::Continue
    }

    fn on_http_response_body(&mut self, size: usize, end: bool) -> Action {
        if !end {
            return Action::Pause;
        }
        let whole = self.get_http_response_body(0, size).unwrap_or_default();
        self.set_http_response_body(0, size, &whole.to_ascii_uppercase());
        Action::Continue
    }
}
