// Licensed under the Apache License, Version 2.0; see LICENSE.

//! properties copies properties of the request to request headers, and one that it sets
//! itself to a response header.

use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;

proxy_wasm::main! {{
    proxy_wasm::set_http_context(|_, _| -> Box<dyn HttpContext> { Box::new(Properties) });
}}

struct Properties;

impl Context for Properties {}

impl HttpContext for Properties {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        for path in [
            vec!["request", "path"],
            vec!["request", "url_path"],
            vec!["request", "query"],
            vec!["request", "method"],
            vec!["request", "host"],
            vec!["request", "scheme"],
            vec!["request", "protocol"],
            vec!["request", "headers", "user-agent"],
            vec!["plugin_root_id"],
            vec!["nothing"],
        ] {
            let value = self.get_property(path.clone());
            let text = value.map_or("none".into(), |v| String::from_utf8_lossy(&v).into_owned());
            self.set_http_request_header(&format!("x-{}", path.join("-").replace('_', "-")), Some(&text));
        }
        self.set_property(vec!["seen"], Some(b"yes"));
        Action::Continue
    }

    fn on_http_response_headers(&mut self, _: usize, _: bool) -> Action {
        let code = self.get_property(vec!["response", "code"]).unwrap_or_default();
        let code = code.iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte));
        self.set_http_response_header("x-code", Some(&code.to_string()));
        let seen = self.get_property(vec!["seen"]).unwrap_or_default();
        self.set_http_response_header("x-seen", Some(&String::from_utf8_lossy(&seen)));
        Action::Continue
    }
}
