// Licensed under the Apache License, Version 2.0; see LICENSE.

// auth asks a service about each request, and holds the request until it answers.

export * from "@solo-io/proxy-runtime/proxy";
import {
  Context, continue_request, FilterHeadersStatusValues, GrpcStatusValues, HeaderPair, Headers, LogLevelValues,
  log, registerRootContext, RootContext, send_local_response, stream_context, WasmResultValues,
} from "@solo-io/proxy-runtime";

function pair(name: string, value: string): HeaderPair {
  return new HeaderPair(String.UTF8.encode(name), String.UTF8.encode(value));
}

class Root extends RootContext {
  createContext(context_id: u32): Context {
    return new Stream(context_id, this);
  }
}

class Stream extends Context {
  constructor(context_id: u32, root: Root) {
    super(context_id, root);
  }

  onRequestHeaders(count: u32, end_of_stream: bool): FilterHeadersStatusValues {
    const question: Headers = [pair(":method", "GET"), pair(":path", "/auth"), pair(":authority", "auth")];
    const asked = this.root_context.httpCall("callouts", question, new ArrayBuffer(0), [], 5000, this,
      (stream: Context, headers: u32, size: usize, trailers: u32): void => {
        const status = stream_context.headers.http_callback.get(":status");
        log(LogLevelValues.info, "answer: " + status);
        if (status == "200") {
          continue_request();
          return;
        }
        send_local_response(403, "denied", String.UTF8.encode("access forbidden"), [pair("x-denied-by", "auth")],
          GrpcStatusValues.InvalidCode);
      });
    if (asked != WasmResultValues.Ok) {
      return FilterHeadersStatusValues.Continue;
    }
    return FilterHeadersStatusValues.StopIteration;
  }
}

registerRootContext((context_id: u32) => { return new Root(context_id); }, "auth");
