/* Licensed under the Apache License, Version 2.0; see LICENSE. */

/*
 * probe calls host functions as it is told and reports what they return, without an SDK.
 *
 * A script is a list of steps, "callback function argument...", separated by semicolons.
 * Its words are separated by spaces, and %XX stands for the byte XX. The request header
 * x-probe has the script of a stream. The configuration of the plugin has the script of
 * the other callbacks, and of streams without the header.
 *
 * Each callback logs its name and its arguments, and runs its steps in order. It logs the
 * result of each as "callback function argument... = status output...", and the response
 * headers add the results so far to the response as headers x-result. Two steps are no host
 * functions: "return" sets what the callback returns, and "trap" ends in a trap.
 */

#ifndef ABI
#define ABI 21
#endif

typedef unsigned int u32;
typedef unsigned long long u64;

#define EXPORT(name) __attribute__((export_name(#name)))
#define IMPORT(name) __attribute__((import_module("env"), import_name(#name)))

#define ONE u32
#define TWO u32, u32
#define THREE TWO, u32
#define FOUR TWO, TWO
#define FIVE FOUR, u32
#define SIX FOUR, TWO
#define EIGHT FOUR, FOUR
#define NINE EIGHT, u32
#define TEN EIGHT, TWO
#define TWELVE EIGHT, FOUR

/*
 * The host functions and how the words of a step become their arguments: n is a number, or
 * $ for the context of the stream, s a text, h pairs "name=value,name=value", and l a number
 * of 64 bits. Without a word: o is where the host puts a number, q one of 64 bits, and d a
 * pointer and a size.
 */
#define COMMON_FUNCTIONS(F) \
	F(proxy_log, "ns", THREE) \
	F(proxy_get_current_time_nanoseconds, "q", ONE) \
	F(proxy_get_status, "od", THREE) \
	F(proxy_set_effective_context, "n", ONE) \
	F(proxy_done, "", void) \
	F(proxy_set_tick_period_milliseconds, "n", ONE) \
	F(proxy_get_property, "sd", FOUR) \
	F(proxy_set_property, "ss", FOUR) \
	F(proxy_get_header_map_value, "nsd", FIVE) \
	F(proxy_get_header_map_pairs, "nd", THREE) \
	F(proxy_get_header_map_size, "no", TWO) \
	F(proxy_add_header_map_value, "nss", FIVE) \
	F(proxy_replace_header_map_value, "nss", FIVE) \
	F(proxy_remove_header_map_value, "ns", THREE) \
	F(proxy_set_header_map_pairs, "nh", THREE) \
	F(proxy_get_buffer_status, "noo", THREE) \
	F(proxy_get_buffer_bytes, "nnnd", FIVE) \
	F(proxy_set_buffer_bytes, "nnns", FIVE) \
	F(proxy_send_local_response, "nsshn", EIGHT) \
	F(proxy_http_call, "shshno", TEN) \
	F(proxy_grpc_call, "ssshsno", TWELVE) \
	F(proxy_grpc_stream, "sssho", NINE) \
	F(proxy_grpc_send, "nsn", FOUR) \
	F(proxy_grpc_cancel, "n", ONE) \
	F(proxy_grpc_close, "n", ONE) \
	F(proxy_get_shared_data, "sdo", FIVE) \
	F(proxy_set_shared_data, "ssn", FIVE) \
	F(proxy_register_shared_queue, "so", THREE) \
	F(proxy_resolve_shared_queue, "sso", FIVE) \
	F(proxy_enqueue_shared_queue, "ns", THREE) \
	F(proxy_dequeue_shared_queue, "nd", THREE) \
	F(proxy_define_metric, "nso", FOUR) \
	F(proxy_get_metric, "nq", TWO) \
	F(proxy_call_foreign_function, "ssd", SIX)

#if ABI == 10
#define OWN_FUNCTIONS(F) \
	F(proxy_continue_request, "", void) \
	F(proxy_continue_response, "", void) \
	F(proxy_clear_route_cache, "", void) \
	F(proxy_get_configuration, "d", TWO)
#elif ABI == 20
#define OWN_FUNCTIONS(F) \
	F(proxy_continue_stream, "n", ONE) \
	F(proxy_close_stream, "n", ONE)
#else
#define OWN_FUNCTIONS(F) \
	F(proxy_continue_stream, "n", ONE) \
	F(proxy_close_stream, "n", ONE) \
	F(proxy_get_log_level, "o", ONE)
#endif

#define DECLARE(name, kinds, parameters) u32 name(parameters) IMPORT(name);
COMMON_FUNCTIONS(DECLARE)
OWN_FUNCTIONS(DECLARE)

u32 proxy_increment_metric(u32 metric, u64 offset) IMPORT(proxy_increment_metric);
u32 proxy_record_metric(u32 metric, u64 value) IMPORT(proxy_record_metric);

struct function {
	const char *name, *kinds;
	const void *address;
};

#define ENTRY(name, kinds, parameters) {&#name[sizeof "proxy"], kinds, name},
static const struct function functions[] = {
	COMMON_FUNCTIONS(ENTRY)
	OWN_FUNCTIONS(ENTRY)
	{"increment_metric", "nl", 0},
	{"record_metric", "nl", 0},
};

enum { request_headers = 0, response_headers = 2, plugin_configuration = 7, info = 2 };
enum { most_parameters = 12, arena_bytes = 1 << 20, script_bytes = 1 << 14, results_bytes = 1 << 15 };

/* Memory for the host, given out piece by piece, and taken back when a callback begins. */
static char arena[arena_bytes];
static u32 arena_used;

#if ABI == 21
EXPORT(proxy_on_memory_allocate)
#else
EXPORT(malloc)
#endif
void *allocate(u32 size)
{
	u32 start = arena_used;
	if (size > arena_bytes - start)
		return 0;
	arena_used = (start + size + 7) & ~7u;
	return arena + start;
}

struct text {
	char *data;
	u32 size;
};

static char configured[script_bytes], streamed[script_bytes];
static struct text configuration = {configured, 0}, header = {streamed, 0};

/* Results that no response header has yet, each ended by a zero byte. */
static char results[results_bytes];
static u32 results_used;

static u32 length(const char *text)
{
	u32 size = 0;
	while (text[size])
		size++;
	return size;
}

static int same(struct text text, const char *word)
{
	u32 i = 0;
	for (; i < text.size && word[i] == text.data[i]; i++)
		;
	return i == text.size && !word[i];
}

static void keep(struct text *script, const char *data, u32 size)
{
	script->size = size < script_bytes ? size : 0;
	for (u32 i = 0; i < script->size; i++)
		script->data[i] = data[i];
}

static void put(char c)
{
	if (results_used < results_bytes - 1)
		results[results_used++] = c;
}

static void put_text(const char *text, u32 size)
{
	for (u32 i = 0; i < size; i++)
		put(text[i]);
}

static void put_hex(u32 digit) { put(digit < 10 ? '0' + digit : 'A' + digit - 10); }

/* Puts bytes so that they fit into a header and into a line of a log. */
static void put_bytes(const char *data, u32 size)
{
	for (u32 i = 0; i < size; i++) {
		unsigned char c = data[i];
		if (c > ' ' && c < 127 && c != '%' && c != ';') {
			put(c);
			continue;
		}
		put('%');
		put_hex(c >> 4);
		put_hex(c & 15);
	}
}

static void put_number(u64 n)
{
	char digits[20];
	u32 used = 0;
	do
		digits[used++] = '0' + n % 10;
	while (n /= 10);
	while (used)
		put(digits[--used]);
}

/* Cuts the part before a separator off a text. */
static struct text cut(struct text *rest, char separator)
{
	struct text part = {rest->data, 0};
	while (part.size < rest->size && part.data[part.size] != separator)
		part.size++;
	u32 taken = part.size < rest->size ? part.size + 1 : part.size;
	rest->data += taken;
	rest->size -= taken;
	return part;
}

static u32 digit(char c) { return c <= '9' ? c - '0' : (c | 32) - 'a' + 10; }

/* Returns a copy of a word with its %XX decoded. */
static struct text decoded(struct text word)
{
	struct text copy = {allocate(word.size), 0};
	for (u32 i = 0; i < word.size; i++) {
		char c = word.data[i];
		if (c == '%' && i + 2 < word.size) {
			c = digit(word.data[i + 1]) << 4 | digit(word.data[i + 2]);
			i += 2;
		}
		copy.data[copy.size++] = c;
	}
	return copy;
}

/* The context of the stream whose request headers came in last. */
static u32 stream;

static u64 number(struct text word)
{
	u64 n = 0;
	if (same(word, "$"))
		return stream;
	u32 negative = word.size && word.data[0] == '-';
	for (u32 i = negative; i < word.size; i++)
		n = n * 10 + (word.data[i] - '0');
	return negative ? -n : n;
}

static char *append(char *to, const char *data, u32 size)
{
	for (u32 i = 0; i < size; i++)
		*to++ = data[i];
	return to;
}

/* Returns pairs "name=value,name=value" as the ABI has them. */
static struct text serialized(struct text word)
{
	u32 pairs = word.size > 0;
	for (u32 i = 0; i < word.size; i++)
		pairs += word.data[i] == ',';
	u32 *sizes = allocate(4 + pairs * 8 + word.size * 2);
	*sizes++ = pairs;
	char *to = (char *)(sizes + 2 * pairs), *start = (char *)(sizes - 1);
	while (pairs--) {
		struct text value = cut(&word, ','), name = cut(&value, '=');
		name = decoded(name), value = decoded(value);
		*sizes++ = name.size;
		*sizes++ = value.size;
		to = append(to, name.data, name.size);
		*to++ = 0;
		to = append(to, value.data, value.size);
		*to++ = 0;
	}
	return (struct text){start, to - start};
}

typedef u32 (*f0)(void);
typedef u32 (*f1)(ONE);
typedef u32 (*f2)(TWO);
typedef u32 (*f3)(THREE);
typedef u32 (*f4)(FOUR);
typedef u32 (*f5)(FIVE);
typedef u32 (*f6)(SIX);
typedef u32 (*f8)(EIGHT);
typedef u32 (*f9)(NINE);
typedef u32 (*f10)(TEN);
typedef u32 (*f12)(TWELVE);

static u32 call(const void *f, const u32 *a, u32 count)
{
	switch (count) {
	case 0: return ((f0)f)();
	case 1: return ((f1)f)(a[0]);
	case 2: return ((f2)f)(a[0], a[1]);
	case 3: return ((f3)f)(a[0], a[1], a[2]);
	case 4: return ((f4)f)(a[0], a[1], a[2], a[3]);
	case 5: return ((f5)f)(a[0], a[1], a[2], a[3], a[4]);
	case 6: return ((f6)f)(a[0], a[1], a[2], a[3], a[4], a[5]);
	case 8: return ((f8)f)(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]);
	case 9: return ((f9)f)(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8]);
	case 10: return ((f10)f)(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9]);
	default: return ((f12)f)(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10], a[11]);
	}
}

/* Where host functions put what they return. Unset words show as 4294967295. */
static u32 outputs[8];

static void put_outputs(const char *kinds)
{
	for (const u32 *out = outputs; *kinds; kinds++) {
		if (*kinds != 'o' && *kinds != 'd' && *kinds != 'q')
			continue;
		put(' ');
		if (*kinds == 'o') {
			put_number(*out++);
			continue;
		}
		if (*kinds == 'd')
			put_bytes((const char *)out[0], out[1]);
		else
			put_number(out[0] | (u64)out[1] << 32);
		out += 2;
	}
}

/* Calls a function with the words of a step, and puts its status and what it returned. */
static void run(const struct function *f, struct text words)
{
	u32 arguments[most_parameters], count = 0, *out = outputs;
	u64 wide = 0;
	for (u32 i = 0; i < sizeof outputs / sizeof *outputs; i++)
		outputs[i] = -1;
	for (const char *kind = f->kinds; *kind; kind++) {
		if (*kind == 'o' || *kind == 'd' || *kind == 'q') {
			arguments[count++] = (u32)out++;
			if (*kind == 'q')
				out++;
			if (*kind != 'd')
				continue;
			out[-1] = 0;
			arguments[count++] = (u32)out;
			*out++ = 0;
			continue;
		}
		struct text word = cut(&words, ' ');
		if (*kind == 'l') {
			wide = number(word);
		} else if (*kind == 'n') {
			arguments[count++] = number(word);
		} else {
			word = *kind == 'h' ? serialized(word) : decoded(word);
			arguments[count++] = (u32)word.data;
			arguments[count++] = word.size;
		}
	}
	u32 status;
	if (f->address)
		status = call(f->address, arguments, count);
	else if (f->name[0] == 'i')
		status = proxy_increment_metric(arguments[0], wide);
	else
		status = proxy_record_metric(arguments[0], wide);
	put_number(status);
	put_outputs(f->kinds);
}

/* Runs one step, and returns the action of its callback: a new one after "return". */
static u32 step(const char *callback, struct text words, u32 action)
{
	struct text rest = words, name = cut(&rest, ' ');
	if (same(name, "return"))
		return number(rest);
	if (same(name, "trap"))
		__builtin_trap();
	u32 start = results_used;
	put_text(callback, length(callback));
	put(' ');
	put_text(words.data, words.size);
	put_text(" = ", 3);
	for (u32 i = 0; i < sizeof functions / sizeof *functions; i++)
		if (same(name, functions[i].name))
			run(&functions[i], rest);
	proxy_log(info, (u32)(results + start), results_used - start);
	put(0);
	return action;
}

/* Runs the steps of a script that are for a callback. */
static u32 run_script(struct text script, const char *callback, u32 action)
{
	while (script.size) {
		struct text words = cut(&script, ';');
		while (words.size && *words.data == ' ')
			words.data++, words.size--;
		if (same(cut(&words, ' '), callback))
			action = step(callback, words, action);
	}
	return action;
}

static void log_callback(const char *callback, const u32 *arguments, u32 count)
{
	u32 start = results_used;
	put_text(callback, length(callback));
	for (u32 i = 0; i < count; i++) {
		put(' ');
		put_number(arguments[i]);
	}
	proxy_log(info, (u32)(results + start), results_used - start);
	results_used = start;
}

/* Callbacks under way: a host can call one while another one calls it. */
static u32 depth;

static u32 run_callback(const char *callback, struct text script, u32 action, u32 count, const u32 *arguments)
{
	if (!depth++)
		arena_used = 0;
	log_callback(callback, arguments, count);
	action = run_script(script, callback, action);
	depth--;
	return action;
}

/* Gives the results to the response, which has headers now. */
static void answer(void)
{
	for (u32 start = 0, end; start < results_used; start = end + 1) {
		end = start + length(results + start);
		proxy_add_header_map_value(response_headers, (u32)"x-result", 8, (u32)(results + start), end - start);
	}
	results_used = 0;
}

/* Reads the script of the stream whose request headers have come in. */
static void read_header(u32 context)
{
	stream = context;
	u32 data = 0, size = 0;
	results_used = 0;
	if (proxy_get_header_map_value(request_headers, (u32)"x-probe", 7, (u32)&data, (u32)&size) == 0 && size)
		keep(&header, (const char *)data, size);
	else
		keep(&header, configuration.data, configuration.size);
}

#define ARGUMENTS(...) sizeof((u32[]){__VA_ARGS__}) / sizeof(u32), (u32[]){__VA_ARGS__}
#define ROOT(name, action, ...) run_callback(name, configuration, action, ARGUMENTS(__VA_ARGS__))
#define STREAM(name, ...) run_callback(name, header, 0, ARGUMENTS(__VA_ARGS__))

#if ABI == 10
EXPORT(proxy_abi_version_0_1_0)
#elif ABI == 20
EXPORT(proxy_abi_version_0_2_0)
#else
EXPORT(proxy_abi_version_0_2_1)
#endif
void version(void) {}

EXPORT(proxy_on_vm_start) u32 on_vm_start(u32 c, u32 size) { return ROOT("vm_start", 1, c, size); }

EXPORT(proxy_on_configure) u32 on_configure(u32 c, u32 size)
{
	u32 data = 0, got = 0;
#if ABI == 10
	proxy_get_configuration((u32)&data, (u32)&got);
#else
	proxy_get_buffer_bytes(plugin_configuration, 0, script_bytes, (u32)&data, (u32)&got);
#endif
	keep(&configuration, (const char *)data, got);
	return ROOT("configure", 1, c, size);
}

EXPORT(proxy_on_context_create) void on_context_create(u32 c, u32 parent) { ROOT("context_create", 0, c, parent); }
EXPORT(proxy_on_tick) void on_tick(u32 c) { ROOT("tick", 0, c); }
EXPORT(proxy_on_queue_ready) void on_queue_ready(u32 c, u32 token) { ROOT("queue_ready", 0, c, token); }

#if ABI == 10
EXPORT(proxy_on_request_headers) u32 on_request_headers(u32 c, u32 count)
{
	read_header(c);
	return STREAM("request_headers", c, count);
}

EXPORT(proxy_on_response_headers) u32 on_response_headers(u32 c, u32 count)
{
	u32 action = STREAM("response_headers", c, count);
	answer();
	return action;
}
#else
EXPORT(proxy_on_request_headers) u32 on_request_headers(u32 c, u32 count, u32 end)
{
	read_header(c);
	return STREAM("request_headers", c, count, end);
}

EXPORT(proxy_on_response_headers) u32 on_response_headers(u32 c, u32 count, u32 end)
{
	u32 action = STREAM("response_headers", c, count, end);
	answer();
	return action;
}
#endif

EXPORT(proxy_on_request_body) u32 on_request_body(u32 c, u32 size, u32 end) { return STREAM("request_body", c, size, end); }
EXPORT(proxy_on_request_trailers) u32 on_request_trailers(u32 c, u32 count) { return STREAM("request_trailers", c, count); }
EXPORT(proxy_on_response_body) u32 on_response_body(u32 c, u32 size, u32 end) { return STREAM("response_body", c, size, end); }
EXPORT(proxy_on_response_trailers) u32 on_response_trailers(u32 c, u32 count) { return STREAM("response_trailers", c, count); }
EXPORT(proxy_on_done) u32 on_done(u32 c) { return run_callback("done", header, 1, ARGUMENTS(c)); }
EXPORT(proxy_on_log) void on_log(u32 c) { STREAM("log", c); }
EXPORT(proxy_on_delete) void on_delete(u32 c) { STREAM("delete", c); }

EXPORT(proxy_on_http_call_response) void on_http_call_response(u32 c, u32 token, u32 count, u32 size, u32 trailers)
{
	STREAM("http_call_response", c, token, count, size, trailers);
}

EXPORT(proxy_on_grpc_receive_initial_metadata) void on_grpc_receive_initial_metadata(u32 c, u32 token, u32 count)
{
	STREAM("grpc_receive_initial_metadata", c, token, count);
}

EXPORT(proxy_on_grpc_receive_trailing_metadata) void on_grpc_receive_trailing_metadata(u32 c, u32 token, u32 count)
{
	STREAM("grpc_receive_trailing_metadata", c, token, count);
}

EXPORT(proxy_on_grpc_receive) void on_grpc_receive(u32 c, u32 token, u32 size) { STREAM("grpc_receive", c, token, size); }
EXPORT(proxy_on_grpc_close) void on_grpc_close(u32 c, u32 token, u32 status) { STREAM("grpc_close", c, token, status); }

#if ABI != 10
EXPORT(proxy_on_foreign_function) void on_foreign_function(u32 c, u32 id, u32 size) { ROOT("foreign_function", 0, c, id, size); }
#endif
