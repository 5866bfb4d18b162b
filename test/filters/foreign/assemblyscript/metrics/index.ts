// Licensed under the Apache License, Version 2.0; see LICENSE.

// metrics counts requests, and logs what it does at all levels.

export * from "@solo-io/proxy-runtime/proxy";
import {
  Context, Counter, FilterDataStatusValues, FilterHeadersStatusValues, Gauge, Histogram, log, LogLevelValues,
  registerRootContext, RootContext, stream_context,
} from "@solo-io/proxy-runtime";

class Root extends RootContext {
  requests: Counter = new Counter("as_requests");
  active: Gauge = new Gauge("as_active");
  sizes: Histogram = new Histogram("as_sizes");

  createContext(context_id: u32): Context {
    return new Stream(context_id, this);
  }
}

class Stream extends Context {
  root: Root;

  constructor(context_id: u32, root: Root) {
    super(context_id, root);
    this.root = root;
  }

  onRequestHeaders(count: u32, end_of_stream: bool): FilterHeadersStatusValues {
    const counted = this.root.requests.increment(1);
    const active = this.root.active.increment(1);
    stream_context.headers.request.add("x-metrics", counted.toString() + " " + active.toString());
    return FilterHeadersStatusValues.Continue;
  }

  onRequestBody(size: usize, end_of_stream: bool): FilterDataStatusValues {
    this.root.sizes.record(this.root.sizes.metric_id, size);
    log(LogLevelValues.warn, "body: " + size.toString());
    return FilterDataStatusValues.Continue;
  }

  onLog(): void {
    this.root.active.increment(-1);
    log(LogLevelValues.critical, "logged");
  }
}

registerRootContext((context_id: u32) => { return new Root(context_id); }, "metrics");
