// Licensed under the Apache License, Version 2.0; see LICENSE.

// headers adds the response header "hello" with its configuration as value, and changes
// request headers.

export * from "@solo-io/proxy-runtime/proxy";
import {
  Context, FilterHeadersStatusValues, registerRootContext, RootContext, stream_context,
} from "@solo-io/proxy-runtime";

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
    stream_context.headers.request.add("x-added", "one");
    stream_context.headers.request.replace("x-replaced", "new");
    stream_context.headers.request.remove("x-removed");
    return FilterHeadersStatusValues.Continue;
  }

  onResponseHeaders(count: u32, end_of_stream: bool): FilterHeadersStatusValues {
    const greeting = this.root_context.getConfiguration();
    stream_context.headers.response.add("hello", greeting == "" ? "world" : greeting);
    return FilterHeadersStatusValues.Continue;
  }
}

registerRootContext((context_id: u32) => { return new Root(context_id); }, "headers");
