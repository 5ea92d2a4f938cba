/* A process that answers messages with a language model, through WASI-NN.
 *
 * json-iface@1.0 hands `handle` a message as JSON and reads JSON back. The message's data is the prompt, the answer's
 * text the output. The model is the one that the process's definition names by reference, as `model`.
 */

#define EXPORT(name) __attribute__((export_name(name)))
#define NN(name) __attribute__((import_module("wasi_ephemeral_nn"), import_name(name)))

typedef unsigned char byte;
typedef unsigned int u32;
typedef unsigned long size;

/* A tensor as WASI-NN passes it: a list of dimensions, a type, a list of bytes. */
typedef struct {
    const u32 *dimensions;
    size dimension_count;
    byte type;
    const byte *data;
    size data_size;
} tensor;

enum { PROMPT = 0, OPTIONS = 1, TEXT = 0, U8 = 3 };

NN("load_by_name") u32 nn_load_by_name(const char *name, size length, u32 *graph);
NN("init_execution_context") u32 nn_init_execution_context(u32 graph, u32 *context);
NN("set_input") u32 nn_set_input(u32 context, u32 index, const tensor *input);
NN("compute") u32 nn_compute(u32 context);
NN("get_output") u32 nn_get_output(u32 context, u32 index, byte *out, size most, u32 *written);

static const char MODEL[] = "default";
static const char OPTIONS_JSON[] = "{\"temperature\":0,\"max_tokens\":12}";

/* What the host writes, anew for each message: `handle` gives it all back. */
static byte heap[1 << 18];
static size used;

EXPORT("malloc") void *malloc(size wanted) {
    if (wanted > sizeof heap - used) __builtin_trap();
    byte *found = heap + used;
    used += (wanted + 15) & ~15ul;
    return found;
}

static byte prompt[1 << 16], text[1 << 16], answer[1 << 17];
static size end;

static void put(byte one) {
    if (end >= sizeof answer - 1) __builtin_trap();
    answer[end++] = one;
}

static void put_text(const char *from) {
    while (*from) put((byte)*from++);
}

/* Put a text as the inside of a JSON string. */
static void put_escaped(const byte *from, size length) {
    static const char digits[] = "0123456789abcdef";
    for (size at = 0; at < length; at++) {
        byte one = from[at];
        if (one == '"' || one == '\\') {
            put('\\');
            put(one);
        } else if (one < 32) {
            put_text("\\u00");
            put((byte)digits[one >> 4]);
            put((byte)digits[one & 15]);
        } else {
            put(one);
        }
    }
}

static u32 hex4(const char *from) {
    u32 found = 0;
    for (int at = 0; at < 4; at++) {
        byte one = (byte)from[at];
        found = found * 16 + (one <= '9' ? one - '0' : (one | 32) - 'a' + 10);
    }
    return found;
}

/* Copy a code point below 2^16 as UTF-8; the host escapes control characters alone. */
static size put_point(byte *to, u32 point) {
    if (point < 0x80) {
        to[0] = (byte)point;
        return 1;
    }
    if (point < 0x800) {
        to[0] = (byte)(0xc0 | point >> 6);
        to[1] = (byte)(0x80 | (point & 63));
        return 2;
    }
    to[0] = (byte)(0xe0 | point >> 12);
    to[1] = (byte)(0x80 | (point >> 6 & 63));
    to[2] = (byte)(0x80 | (point & 63));
    return 3;
}

/* Copy the string that begins at `from`, up to its closing quote; return its length. */
static size unescape(const char *from, byte *to, size most) {
    size length = 0;
    for (; *from && *from != '"'; from++) {
        if (length + 4 > most) __builtin_trap();
        if (*from != '\\') {
            to[length++] = (byte)*from;
            continue;
        }
        switch (*++from) {
        case 'n': to[length++] = '\n'; break;
        case 't': to[length++] = '\t'; break;
        case 'r': to[length++] = '\r'; break;
        case 'b': to[length++] = '\b'; break;
        case 'f': to[length++] = '\f'; break;
        case 'u':
            length += put_point(to + length, hex4(from + 1));
            from += 4;
            break;
        default: to[length++] = (byte)*from;
        }
    }
    return length;
}

/* Return what stands behind a text, or nothing. Inside JSON strings quotes are escaped, so a key is found as one. */
static const char *behind(const char *in, const char *wanted) {
    for (; *in; in++) {
        size at = 0;
        while (wanted[at] && in[at] == wanted[at]) at++;
        if (!wanted[at]) return in + at;
    }
    return 0;
}

/* Ask the model; return an error number of WASI-NN, or 0. */
static u32 ask(size length, u32 *written) {
    static u32 graph, context, dimension;
    u32 error;
    dimension = (u32)length;
    tensor input = {&dimension, 1, U8, prompt, length};
    tensor options = {&dimension, 1, U8, (const byte *)OPTIONS_JSON, sizeof OPTIONS_JSON - 1};
    if ((error = nn_load_by_name(MODEL, sizeof MODEL - 1, &graph))) return error;
    if ((error = nn_init_execution_context(graph, &context))) return error;
    if ((error = nn_set_input(context, PROMPT, &input))) return error;
    if ((error = nn_set_input(context, OPTIONS, &options))) return error;
    if ((error = nn_compute(context))) return error;
    return nn_get_output(context, TEXT, text, sizeof text, written);
}

EXPORT("handle") byte *handle(const char *message, const char *process) {
    (void)process;
    end = used = 0;
    const char *data = behind(message, "\"Data\":\"");
    size length = data ? unescape(data, prompt, sizeof prompt) : 0;
    if (!length) {
        put_text("{\"ok\":true,\"response\":{\"Output\":{\"data\":\"\"},\"Messages\":[]}}");
    } else {
        u32 written = 0, error = ask(length, &written);
        if (error) {
            put_text("{\"ok\":true,\"response\":{\"Error\":\"WASI-NN error ");
            if (error >= 100) put((byte)('0' + error / 100));
            if (error >= 10) put((byte)('0' + error / 10 % 10));
            put((byte)('0' + error % 10));
            put_text("\"}}");
        } else {
            put_text("{\"ok\":true,\"response\":{\"Output\":{\"data\":\"");
            put_escaped(text, written);
            put_text("\"},\"Messages\":[]}}");
        }
    }
    answer[end] = 0;
    return answer;
}
