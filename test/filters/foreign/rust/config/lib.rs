// Licensed under the Apache License, Version 2.0; see LICENSE.

//! config adds the response headers that its configuration lists, a JSON object of strings.
//! It refuses any other configuration.

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel};

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|_| -> Box<dyn RootContext> { Box::<Root>::default() });
}}

type Pairs = Vec<(String, String)>;

#[derive(Default)]
struct Root {
    headers: Pairs,
}

fn parse(text: &str) -> Result<Pairs, String> {
    let object = json::parse(text).map_err(|e| e.to_string())?;
    if !object.is_object() {
        return Err("it is no object".into());
    }
    object
        .entries()
        .map(|(name, value)| {
            let value = value.as_str().ok_or_else(|| format!("{name} is no string"))?;
            Ok((name.to_string(), value.to_string()))
        })
        .collect()
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _: usize) -> bool {
        let text = self.get_plugin_configuration().unwrap_or_default();
        match parse(&String::from_utf8_lossy(&text)) {
            Ok(headers) => {
                self.headers = headers;
                true
            }
            Err(reason) => {
                log::error!("configuration refused: {reason}");
                false
            }
        }
    }

    fn create_http_context(&self, _: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Stream { headers: self.headers.clone() }))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

struct Stream {
    headers: Pairs,
}

impl Context for Stream {}

impl HttpContext for Stream {
    fn on_http_response_headers(&mut self, _: usize, _: bool) -> Action {
        for (name, value) in &self.headers {
            self.add_http_response_header(name, value);
        }
        Action::Continue
    }
}
