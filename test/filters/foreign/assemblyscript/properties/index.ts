// Licensed under the Apache License, Version 2.0; see LICENSE.

// properties adds properties to the request and the response, and holds each request until
// the next tick.

export * from "@solo-io/proxy-runtime/proxy";
import {
  Context, continue_request, FilterHeadersStatusValues, registerRootContext, RootContext, stream_context,
} from "@solo-io/proxy-runtime";
import { get_property, set_tick_period_milliseconds } from "@solo-io/proxy-runtime/runtime";

class Root extends RootContext {
  held: Array<Context> = [];

  createContext(context_id: u32): Context {
    return new Stream(context_id, this);
  }

  onConfigure(size: u32): bool {
    set_tick_period_milliseconds(50);
    return true;
  }

  onTick(): void {
    while (this.held.length > 0) {
      this.held.pop().setEffectiveContext();
      continue_request();
    }
  }
}

class Stream extends Context {
  root: Root;

  constructor(context_id: u32, root: Root) {
    super(context_id, root);
    this.root = root;
  }

  onRequestHeaders(count: u32, end_of_stream: bool): FilterHeadersStatusValues {
    // The SDK traps when there is no such property, as of a request once its headers are gone.
    stream_context.headers.request.add("x-path", String.UTF8.decode(get_property("request\0path")));
    this.root.held.push(this);
    return FilterHeadersStatusValues.StopIteration;
  }

  onResponseHeaders(count: u32, end_of_stream: bool): FilterHeadersStatusValues {
    stream_context.headers.response.add("x-root", String.UTF8.decode(get_property("plugin_root_id")));
    return FilterHeadersStatusValues.Continue;
  }
}

registerRootContext((context_id: u32) => { return new Root(context_id); }, "properties");
