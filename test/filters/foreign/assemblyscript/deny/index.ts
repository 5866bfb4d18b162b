// Licensed under the Apache License, Version 2.0; see LICENSE.

// deny answers requests itself unless they have the header that its configuration names. It
// refuses to run without a configuration.

export * from "@solo-io/proxy-runtime/proxy";
import {
  Context, FilterHeadersStatusValues, GrpcStatusValues, log, LogLevelValues, registerRootContext, RootContext,
  send_local_response, stream_context,
} from "@solo-io/proxy-runtime";

class Root extends RootContext {
  createContext(context_id: u32): Context {
    return new Stream(context_id, this);
  }

  onConfigure(size: u32): bool {
    if (size == 0) {
      log(LogLevelValues.error, "the configuration must name a header");
      return false;
    }
    return super.onConfigure(size);
  }
}

class Stream extends Context {
  constructor(context_id: u32, root: Root) {
    super(context_id, root);
  }

  onRequestHeaders(count: u32, end_of_stream: bool): FilterHeadersStatusValues {
    const value = stream_context.headers.request.get(this.root_context.getConfiguration());
    if (value != "") {
      return FilterHeadersStatusValues.Continue;
    }
    send_local_response(401, "no_credentials", String.UTF8.encode("who are you?"), [], GrpcStatusValues.InvalidCode);
    return FilterHeadersStatusValues.StopIteration;
  }
}

registerRootContext((context_id: u32) => { return new Root(context_id); }, "deny");
