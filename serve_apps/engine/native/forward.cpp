// One forward pass of GPTBigCode over rows of many sequences, K and V in blocks of 16 tokens.
//
// Every output number is one sum over k in ascending order, whatever else is in the batch, however many threads there
// are and however a prompt is cut into chunks: company never changes a row's bits.
// Weights are packed into panels of 16 outputs, [outputs / 16][inputs][16]: a panel is read once, front to back, for all
// rows, which makes small batches as fast as memory allows. A vector is 16 numbers: one register of AVX-512, two of AVX2,
// four of NEON or SSE, which are kept in a struct, since GCC keeps vectors wider than a register in memory.
#include <omp.h>
#include <sched.h>
#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

constexpr int LANES = 16;
struct Half {  // bfloat16: the upper half of a float
    uint16_t bits;
};
#ifdef __AVX512F__
typedef float vec __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t ints __attribute__((vector_size(64), aligned(4), may_alias));
static inline vec splat(float value) { return value - vec{}; }
static inline vec load(const float* at) { return *(const vec*)at; }
static inline void store(float* at, vec value) { *(vec*)at = value; }
static inline vec load(const int8_t* at) {  // GCC takes the bytes one by one when left to itself
    return (vec)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)at)));
}
static inline vec load(const Half* at) {
    return (vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)at)), 16);
}
static inline ints below(int32_t limit) {  // lanes whose number is less
    return ints{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15} < limit;
}
static inline vec pick(ints which, vec yes, vec no) { return which ? yes : no; }
static inline vec larger(vec a, vec b) { return a > b ? a : b; }
static inline vec power_of_two(vec whole) { return (vec)((__builtin_convertvector(whole, ints) + 127) << 23); }
// rows and panels of a tile, heads and blocks of attention: as many sums as there are registers
constexpr int FEW_ROWS = 6, FEW_PANELS = 4, MANY_ROWS = 12, MANY_PANELS = 2, HEADS_AT_ONCE = 8, BLOCKS_AT_ONCE = 2;
constexpr int wide_for(int heads) { return heads <= 6 ? 4 : 2; }
#else
#ifdef __AVX__
constexpr int PART = 8;
#else
constexpr int PART = 4;
#endif
constexpr int PARTS = LANES / PART;
typedef float part __attribute__((vector_size(PART * 4)));
typedef float loose __attribute__((vector_size(PART * 4), aligned(4), may_alias));
typedef int32_t int_part __attribute__((vector_size(PART * 4)));
typedef uint32_t bits_part __attribute__((vector_size(PART * 4)));
typedef uint16_t half_part __attribute__((vector_size(PART * 2), aligned(2), may_alias));
typedef int8_t byte_part __attribute__((vector_size(PART), aligned(1), may_alias));
struct ints {
    int_part p[PARTS];
};
struct vec {
    part p[PARTS];
    float operator[](int lane) const { return p[lane / PART][lane % PART]; }
};
#define EACH _Pragma("GCC unroll 4") for (int i = 0; i < PARTS; i++)
#define BOTH(op)                                                                    \
    static inline vec operator op(vec a, vec b) { EACH a.p[i] = a.p[i] op b.p[i]; return a; } \
    static inline vec operator op(vec a, float b) { EACH a.p[i] = a.p[i] op b; return a; }    \
    static inline vec operator op(float a, vec b) { EACH b.p[i] = a op b.p[i]; return b; }
BOTH(+) BOTH(-) BOTH(*) BOTH(/)
static inline vec& operator+=(vec& a, vec b) { EACH a.p[i] += b.p[i]; return a; }
static inline vec& operator*=(vec& a, vec b) { EACH a.p[i] *= b.p[i]; return a; }
static inline vec splat(float value) { vec a; EACH a.p[i] = value - part{}; return a; }
static inline vec load(const float* at) { vec a; EACH a.p[i] = (part)*(const loose*)(at + i * PART); return a; }
static inline void store(float* at, vec a) { EACH *(loose*)(at + i * PART) = (loose)a.p[i]; }
static inline vec load(const int8_t* at) {
    vec a;
    EACH a.p[i] = __builtin_convertvector(__builtin_convertvector(*(const byte_part*)(at + i * PART), int_part), part);
    return a;
}
static inline vec load(const Half* at) {
    vec a;
    EACH a.p[i] = (part)(__builtin_convertvector(*(const half_part*)(at + i * PART), bits_part) << 16);
    return a;
}
static inline ints below(int32_t limit) {
    int_part first;
    for (int lane = 0; lane < PART; lane++) first[lane] = lane;
    ints a;
    EACH a.p[i] = first + i * PART < limit;
    return a;
}
static inline vec pick(ints which, vec yes, vec no) { EACH yes.p[i] = which.p[i] ? yes.p[i] : no.p[i]; return yes; }
static inline vec larger(vec a, vec b) { EACH a.p[i] = a.p[i] > b.p[i] ? a.p[i] : b.p[i]; return a; }
static inline vec power_of_two(vec whole) {
    EACH whole.p[i] = (part)((__builtin_convertvector(whole.p[i], int_part) + 127) << 23);
    return whole;
}
constexpr int FEW_ROWS = 1, FEW_PANELS = 4, MANY_ROWS = 6, MANY_PANELS = 1, HEADS_AT_ONCE = 4, BLOCKS_AT_ONCE = 1;
constexpr int wide_for(int heads) { return heads <= 2 ? 2 : 1; }
#endif
#ifdef __AVX512BF16__
constexpr bool HALVES = true;
#else
constexpr bool HALVES = false;
#endif
struct Quad {  // four inputs of a row in eight bits each; behind a row's last one, the scale or the offset of a group
    int32_t bits;
};
#ifdef __AVX512VNNI__
constexpr bool QUADS_MULTIPLY = true;
#else
constexpr bool QUADS_MULTIPLY = false;
#endif
constexpr int64_t GROUP = 64;  // inputs that share a scale: one that is far from the others costs only these their digits
constexpr int64_t SPINS = 4000;  // about a fifth of a millisecond

#ifdef __AVX512BF16__
static inline void store(Half* at, vec value) { _mm256_storeu_si256((__m256i*)at, (__m256i)_mm512_cvtneps_pbh((__m512)value)); }
#else
static inline void store(Half*, vec) {}
#endif

static inline float sum(vec value) {
    float total = 0;
    for (int lane = 0; lane < LANES; lane++) total += value[lane];
    return total;
}

// exp by 2^n · polynomial(r), |r| <= ln(2)/2 (Cephes); relative error below 2e-7, inputs clamped to [-87, 88]
static inline vec exponential(vec x) {
    x = larger(x, splat(-87.0f));
    x = 0.0f - larger(0.0f - x, splat(-88.0f));
    const vec shifted = x * 1.44269504088896341f + 12582912.0f;
    const vec n = shifted - 12582912.0f;
    const vec r = x - n * 0.693359375f + n * 2.12194440e-4f;
    vec p = splat(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return p * power_of_two(n);
}

static inline vec gelu(vec x) {  // the tanh form: x · sigmoid(2u)
    const vec u = 0.7978845608028654f * (x + 0.044715f * x * x * x);
    return x / (1.0f + exponential(-2.0f * u));
}

// What an adapter adds to a product, in fp32 whatever the weights are: up · (down · x). Of rank 0 it adds nothing.
struct Lora {
    const float* down;  // [rank][inputs]
    const float* up;    // [outputs / 16][rank][16]
    int64_t rank;
};

struct Linear {
    // float, int8, bfloat16, pairs of it: [outputs / 16][inputs / 2][16][2], or fours of uint8, which are int8 and 128
    const void* panels;
    const float* scales;  // of each output, for weights in eight bits
    const float* bias;    // padded to whole panels; may be null
    int64_t inputs, outputs, kind;
    const Lora* loras;  // one of each adapter; may be null
};

// The adapters' part of a product's rows: `low` is down · x, [rows][width].
struct Lows {
    const Lora* loras;  // null: no row has any
    const int32_t* adapter;
    const float* low;
    int64_t width;
    Lows from(int64_t row) const { return loras ? Lows{loras, adapter + row, low + row * width, width} : *this; }
};

enum Kind { FLOATS, BYTES, HALVED, PAIRS, QUADS };

struct Layer {
    const float *norm1_weight, *norm1_bias, *norm2_weight, *norm2_bias;
    Linear attention, projection, widen, narrow;
    float *keys, *values;  // [blocks][dim][16] and [blocks][16][dim padded]
};

struct Model {
    int64_t layers, hidden, heads, dim, padded_dim, vocabulary;
    float epsilon;
    const float *tokens, *positions, *norm_weight, *norm_bias;
    const Layer* layer;
    Linear head;
};

struct Batch {
    int64_t rows, wanted, table_width, context;  // context: the most keys that a row of this batch sees
    const int32_t *ids, *position, *sequence, *tables, *wanted_rows;
    const int32_t* adapter;  // of each row, -1 for none; null where no row has any
    float *x, *normed, *fused, *mixed, *wide, *scratch, *logits;
    Half *normed_half, *mixed_half, *wide_half;  // what stands in their namesakes, for weights of bfloat16
    Quad* quads;  // what stands in them, for products of eight bits
    int32_t* best;
    float *log_total, *low;
    int64_t most_rank, threads;
};

enum Ending { PLAIN, GELU, ADD };

static inline float widened(float value) { return value; }
static inline float widened(Half value) {
    const uint32_t bits = (uint32_t)value.bits << 16;
    float whole;
    memcpy(&whole, &bits, sizeof whole);
    return whole;
}

template <class Input>
static void lowered(const Lora& lora, const Input* x, int64_t inputs, float* low) {
    for (int64_t r = 0; r < lora.rank; r++) {
        const float* down = lora.down + r * inputs;
        float total = 0;
#pragma omp simd reduction(+ : total)
        for (int64_t k = 0; k < inputs; k++) total += widened(x[k]) * down[k];
        low[r] = total;
    }
}

static inline vec raised(const Lora& lora, const float* low, int64_t panel) {
    vec sum{};
    for (int64_t r = 0; r < lora.rank; r++) sum += splat(low[r]) * load(lora.up + (panel * lora.rank + r) * LANES);
    return sum;
}

template <int ROWS, int PANELS, class Weight>
static inline void tile(const float* x, int64_t width, const Weight* panels, const Weight* ahead, int64_t inputs,
                        vec (&sums)[ROWS][PANELS]) {
    for (int row = 0; row < ROWS; row++)
        for (int panel = 0; panel < PANELS; panel++) sums[row][panel] = vec{};
    for (int64_t k = 0; k < inputs; k++) {
        vec weight[PANELS];
        // with many rows a line is used too long for the processor to look far ahead by itself
        if constexpr (ROWS > 1)
            for (int panel = 0; panel < PANELS; panel++) __builtin_prefetch(ahead + (panel * inputs + k) * LANES);
#pragma GCC unroll 4
        for (int panel = 0; panel < PANELS; panel++) weight[panel] = load(panels + (panel * inputs + k) * LANES);
#pragma GCC unroll 12
        for (int row = 0; row < ROWS; row++) {
            const vec value = splat(x[row * width + k]);
#pragma GCC unroll 4
            for (int panel = 0; panel < PANELS; panel++) sums[row][panel] += value * weight[panel];
        }
    }
}

// The same over pairs: a lane adds the products of two inputs at once, in fp32 (AVX-512's vdpbf16ps).
template <int ROWS, int PANELS>
static inline void tile(const Half* x, int64_t width, const Half* panels, const Half* ahead, int64_t inputs,
                        vec (&sums)[ROWS][PANELS]) {
#ifdef __AVX512BF16__
    for (int row = 0; row < ROWS; row++)
        for (int panel = 0; panel < PANELS; panel++) sums[row][panel] = vec{};
    for (int64_t k = 0; k < inputs; k += 2) {
        __m512bh weight[PANELS];
        if constexpr (ROWS > 1)
            for (int panel = 0; panel < PANELS; panel++) __builtin_prefetch(ahead + (panel * inputs + k) * LANES);
#pragma GCC unroll 4
        for (int panel = 0; panel < PANELS; panel++)
            weight[panel] = (__m512bh)_mm512_loadu_si512(panels + (panel * inputs + k) * LANES);
#pragma GCC unroll 12
        for (int row = 0; row < ROWS; row++) {
            int32_t pair;
            memcpy(&pair, x + row * width + k, sizeof pair);
            const __m512bh value = (__m512bh)_mm512_set1_epi32(pair);
#pragma GCC unroll 4
            for (int panel = 0; panel < PANELS; panel++)
                sums[row][panel] = (vec)_mm512_dpbf16_ps((__m512)sums[row][panel], value, weight[panel]);
        }
    }
#endif
}

static inline int64_t groups_of(int64_t inputs) { return (inputs + GROUP - 1) / GROUP; }

// A row's inputs, then the scale of each group, then 128 times the sum of each group's numbers.
template <class Input>
static inline int64_t width_of(int64_t inputs) {
    return std::is_same_v<Input, Quad> ? inputs / 4 + 2 * groups_of(inputs) : inputs;
}

// Eight bits for the inputs of a row, a multiple of 16: symmetric, the largest of a group is 127.
static void quantize(const float* x, int64_t inputs, Quad* out) {
#ifdef __AVX512VNNI__
    int8_t* bytes = (int8_t*)out;
    float* scales = (float*)(out + inputs / 4);
    int32_t* offsets = (int32_t*)scales + groups_of(inputs);
    for (int64_t first = 0, group = 0; first < inputs; first += GROUP, group++) {
        const int64_t end = first + GROUP < inputs ? first + GROUP : inputs;
        __m512 most = _mm512_setzero_ps();
        for (int64_t k = first; k < end; k += LANES) most = _mm512_max_ps(most, _mm512_abs_ps(_mm512_loadu_ps(x + k)));
        const float largest = _mm512_reduce_max_ps(most);
        const __m512 inverse = _mm512_set1_ps(largest > 0 ? 127.0f / largest : 0.0f);
        __m512i total = _mm512_setzero_si512();
        for (int64_t k = first; k < end; k += LANES) {
            const __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + k), inverse));
            total = _mm512_add_epi32(total, whole);
            _mm_storeu_si128((__m128i*)(bytes + k), _mm512_cvtsepi32_epi8(whole));
        }
        scales[group] = largest / 127.0f;
        offsets[group] = 128 * _mm512_reduce_add_epi32(total);
    }
#endif
}

// The same over fours of eight bits (AVX-512's vpdpbusd): whole numbers within a group, fp32 over the groups. It takes one
// side without signs: the weights, which have 128 added for it; a sum begins with what that adds taken off.
template <int ROWS, int PANELS>
static inline void tile(const Quad* x, int64_t width, const uint8_t* panels, const uint8_t* ahead, int64_t inputs,
                        vec (&sums)[ROWS][PANELS]) {
#ifdef __AVX512VNNI__
    const float* scales = (const float*)(x + inputs / 4);
    const int32_t* offsets = (const int32_t*)scales + groups_of(inputs);
    for (int row = 0; row < ROWS; row++)
        for (int panel = 0; panel < PANELS; panel++) sums[row][panel] = vec{};
    for (int64_t first = 0, group = 0; first < inputs; first += GROUP, group++) {
        const int64_t end = first + GROUP < inputs ? first + GROUP : inputs;
        __m512i whole[ROWS][PANELS];
#pragma GCC unroll 6
        for (int row = 0; row < ROWS; row++)
#pragma GCC unroll 4
            for (int panel = 0; panel < PANELS; panel++) whole[row][panel] = _mm512_set1_epi32(-offsets[row * width + group]);
        for (int64_t k = first; k < end; k += 4) {
            __m512i weight[PANELS];
            if constexpr (ROWS > 1)
                for (int panel = 0; panel < PANELS; panel++) __builtin_prefetch(ahead + (panel * inputs + k) * LANES);
#pragma GCC unroll 4
            for (int panel = 0; panel < PANELS; panel++)
                weight[panel] = _mm512_loadu_si512(panels + (panel * inputs + k) * LANES);
#pragma GCC unroll 6
            for (int row = 0; row < ROWS; row++) {
                const __m512i value = _mm512_set1_epi32(x[row * width + k / 4].bits);
#pragma GCC unroll 4
                for (int panel = 0; panel < PANELS; panel++)
                    // as an intrinsic GCC copies every sum before each product
                    asm("vpdpbusd %2, %1, %0" : "+v"(whole[row][panel]) : "v"(weight[panel]), "v"(value));
            }
        }
#pragma GCC unroll 6
        for (int row = 0; row < ROWS; row++) {
            const vec scale = splat(scales[row * width + group]);
#pragma GCC unroll 4
            for (int panel = 0; panel < PANELS; panel++)
                sums[row][panel] += (vec)_mm512_cvtepi32_ps(whole[row][panel]) * scale;
        }
    }
#endif
}

// Rows of a tile: those of eight bits have two sums for each output.
template <class Weight>
constexpr int few_rows() { return std::is_same_v<Weight, uint8_t> ? 3 : FEW_ROWS; }
template <class Weight>
constexpr int many_rows() { return std::is_same_v<Weight, uint8_t> ? 6 : MANY_ROWS; }

template <int ROWS, int PANELS, class Weight, class Input, class Output>
static void finished_tile(const Input* x, const Lows& lows, const Linear& layer, int64_t first, int64_t ahead, Output* y,
                          int64_t stride, Ending ending) {
    vec sums[ROWS][PANELS];
    const Weight* panels = (const Weight*)layer.panels;
    tile<ROWS, PANELS>(x, width_of<Input>(layer.inputs), panels + first * layer.inputs * LANES, panels + ahead * LANES,
                       layer.inputs, sums);
    for (int panel = 0; panel < PANELS; panel++) {
        const int64_t column = (first + panel) * LANES;
        for (int row = 0; row < ROWS; row++) {
            vec value = sums[row][panel];
            if (layer.scales) value *= load(layer.scales + column);
            if (layer.bias) value += load(layer.bias + column);
            if (lows.loras && lows.adapter[row] >= 0)
                value += raised(lows.loras[lows.adapter[row]], lows.low + row * lows.width, first + panel);
            if (ending == GELU) value = gelu(value);
            Output* at = y + row * stride + column;
            const int64_t left = layer.outputs - column;
            if constexpr (std::is_same_v<Output, Half>) {  // the next product's input, whose width is whole panels
                store(at, value);
            } else if (left >= LANES) {
                store(at, ending == ADD ? load(at) + value : value);
            } else {
                for (int64_t lane = 0; lane < left; lane++) at[lane] = ending == ADD ? at[lane] + value[lane] : value[lane];
            }
        }
    }
}

template <class Weight, int PANELS, int ROWS, class Input, class Output>
static void some_rows(int64_t rows, const Input* x, const Lows& lows, const Linear& layer, int64_t first, int64_t ahead,
                      Output* y, int64_t stride, Ending e) {
    if (rows == ROWS)
        finished_tile<ROWS, PANELS, Weight>(x, lows, layer, first, ahead, y, stride, e);
    else if constexpr (ROWS > 1)
        some_rows<Weight, PANELS, ROWS - 1>(rows, x, lows, layer, first, ahead, y, stride, e);
}

template <class Weight, int PANELS, int MOST, class Input, class Output>
static void all_rows(int64_t rows, const Input* x, const Lows& lows, const Linear& layer, int64_t first, int64_t last,
                     Output* y, int64_t stride, Ending e) {
    for (int64_t row = 0; row < rows; row += MOST) {
        const int64_t count = rows - row < MOST ? rows - row : MOST;
        // the first rows fetch their own weights from memory, the next ones those that come after: so that memory works
        // while the products of many rows are computed
        const int64_t from = row ? first + PANELS < last ? first + PANELS : first : first;
        const int64_t next = std::is_same_v<Weight, uint8_t> ? 192 : std::is_same_v<Weight, Half> ? 96 : 48;
        const int64_t ahead = from * layer.inputs + (row ? 0 : next);
        some_rows<Weight, PANELS, MOST>(count, x + row * width_of<Input>(layer.inputs), lows.from(row), layer, first, ahead,
                                        y + row * stride, stride, e);
    }
}

template <class Weight, class Input, class Output>
static void columns(int64_t rows, const Input* x, const Lows& lows, const Linear& layer, int64_t first, int64_t count,
                    Output* y, int64_t stride, Ending e) {
    const int64_t last = first + count;
    constexpr int FEW = few_rows<Weight>(), MANY = many_rows<Weight>();
    if (count == FEW_PANELS && rows <= FEW)
        return all_rows<Weight, FEW_PANELS, FEW>(rows, x, lows, layer, first, last, y, stride, e);
    for (; count >= MANY_PANELS; count -= MANY_PANELS, first += MANY_PANELS)
        all_rows<Weight, MANY_PANELS, MANY>(rows, x, lows, layer, first, last, y, stride, e);
    if (MANY_PANELS > 1 && count) all_rows<Weight, 1, MANY>(rows, x, lows, layer, first, last, y, stride, e);
}

static inline void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Threads wait for each other eight times a layer. OpenMP's own barrier sleeps at once when a process has more OpenMP
// threads than cores (torch has its own), and sleeping 160 times a step costs an eighth of its time. This one spins for a
// while and then sleeps: on a busy machine the one that is waited for may not be running at all, and who has slept is let
// in before who has computed all the time.
struct Barrier {
    std::atomic<int> arrived{0}, round{0}, asleep{0};

    void wait() {  // called by all threads of the team
        const int mine = round.load(std::memory_order_relaxed);
        if (arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == omp_get_num_threads()) {
            arrived.store(0, std::memory_order_relaxed);
            round.store(mine + 1);
            if (asleep.load()) wake();
            return;
        }
        for (int64_t spins = 0; spins < SPINS; spins++) {
            if (round.load(std::memory_order_acquire) != mine) return;
            relax();
        }
        asleep.fetch_add(1);
        while (round.load() == mine) sleep(mine);
        asleep.fetch_sub(1);
    }

#ifdef __linux__
    void sleep(int mine) { syscall(SYS_futex, &round, FUTEX_WAIT_PRIVATE, mine, nullptr, nullptr, 0); }
    void wake() { syscall(SYS_futex, &round, FUTEX_WAKE_PRIVATE, INT32_MAX, nullptr, nullptr, 0); }
#else
    void sleep(int) { sched_yield(); }
    void wake() {}
#endif
};

// y[rows, stride] from x[rows, inputs], or from its halves where x is null; called by all threads of the team
template <class Output>
static void linear(const Batch& batch, Barrier& barrier, int64_t rows, const float* x, const Half* halves, const Linear& layer,
                   Output* y, int64_t stride, Ending ending) {
    Lows lows{};
    const bool adapted = batch.adapter && layer.loras, quads = QUADS_MULTIPLY && layer.kind == QUADS;
    if (quads) {
#pragma omp for schedule(static) nowait
        for (int64_t row = 0; row < rows; row++)
            quantize(x + row * layer.inputs, layer.inputs, batch.quads + row * width_of<Quad>(layer.inputs));
    }
    if (adapted) {
#pragma omp for schedule(static) nowait
        for (int64_t row = 0; row < rows; row++) {
            if (batch.adapter[row] < 0) continue;
            const Lora& lora = layer.loras[batch.adapter[row]];
            float* low = batch.low + row * batch.most_rank;
            if (x)
                lowered(lora, x + row * layer.inputs, layer.inputs, low);
            else
                lowered(lora, halves + row * layer.inputs, layer.inputs, low);
        }
        lows = {layer.loras, batch.adapter, batch.low, batch.most_rank};
    }
    if (quads || adapted) barrier.wait();
    const int64_t panels = (layer.outputs + LANES - 1) / LANES;
#pragma omp for schedule(dynamic) nowait
    for (int64_t first = 0; first < panels; first += 4) {
        const int64_t count = panels - first < 4 ? panels - first : 4;
        if (HALVES && layer.kind == PAIRS)
            columns<Half>(rows, halves, lows, layer, first, count, y, stride, ending);
        else if (quads)
            columns<uint8_t>(rows, batch.quads, lows, layer, first, count, y, stride, ending);
        else if (layer.kind == HALVED)
            columns<Half>(rows, x, lows, layer, first, count, y, stride, ending);
        else if (layer.kind == BYTES)
            columns<int8_t>(rows, x, lows, layer, first, count, y, stride, ending);
        else
            columns<float>(rows, x, lows, layer, first, count, y, stride, ending);
    }
}

static void halve(const float* from, int64_t count, Half* to) {  // `count` is a multiple of 16
    for (int64_t k = 0; k < count; k += LANES) store(to + k, load(from + k));
}

static void normalize(const float* x, const float* weight, const float* bias, float epsilon, int64_t hidden, float* out) {
    float total = 0, squares = 0;
#pragma omp simd reduction(+ : total)
    for (int64_t k = 0; k < hidden; k++) total += x[k];
    const float mean = total / hidden;
#pragma omp simd reduction(+ : squares)
    for (int64_t k = 0; k < hidden; k++) squares += (x[k] - mean) * (x[k] - mean);
    const float scale = 1.0f / std::sqrt(squares / hidden + epsilon);
#pragma omp simd
    for (int64_t k = 0; k < hidden; k++) out[k] = (x[k] - mean) * scale * weight[k] + bias[k];
}

static void keep(const Model& model, const Layer& layer, const Batch& batch, int64_t row) {
    const int64_t fused = model.hidden + 2 * model.dim, position = batch.position[row];
    const float* key = batch.fused + row * fused + model.hidden;
    const int64_t block = batch.tables[batch.sequence[row] * batch.table_width + position / LANES], lane = position % LANES;
    float* keys = layer.keys + block * model.dim * LANES + lane;
    for (int64_t d = 0; d < model.dim; d++) keys[d * LANES] = key[d];
    memcpy(layer.values + (block * LANES + lane) * model.padded_dim, key + model.dim, model.dim * sizeof(float));
}

// Scores of `HEADS` query heads over the keys of `BLOCKS` blocks at once: each key and each query number is loaded less
// often. What comes next is fetched ahead, since no processor guesses a block table.
template <int HEADS, int BLOCKS>
static inline void block_scores(const float* query, int64_t dim, const float* const (&keys)[BLOCKS], const float* next,
                                vec (&sums)[BLOCKS][HEADS]) {
    for (int b = 0; b < BLOCKS; b++)
        for (int h = 0; h < HEADS; h++) sums[b][h] = vec{};
    for (int64_t d = 0; d < dim; d++) {
        vec key[BLOCKS];
        for (int b = 0; b < BLOCKS; b++) {
            key[b] = load(keys[b] + d * LANES);
            __builtin_prefetch(next + (b * dim + d) * LANES);
        }
#pragma GCC unroll 8
        for (int h = 0; h < HEADS; h++) {
            const vec value = splat(query[h * dim + d]);
            for (int b = 0; b < BLOCKS; b++) sums[b][h] += value * key[b];
        }
    }
}

// `WIDE` vectors of the values, mixed for `HEADS` heads; `left` numbers of them are the head's.
template <int HEADS, int WIDE>
static inline void mix(const Model& model, const float* values, const int32_t* table, int64_t length, const float* scores,
                       int64_t stride, const float* share, int64_t left, float* out) {
    vec sums[HEADS][WIDE] = {};
    for (int64_t at = 0; at < length; at++) {
        const float* row = values + (table[at / LANES] * LANES + at % LANES) * model.padded_dim;
        vec value[WIDE];
        for (int w = 0; w < WIDE; w++) value[w] = load(row + w * LANES);
#pragma GCC unroll 8
        for (int h = 0; h < HEADS; h++) {
            const vec weight = splat(scores[h * stride + at]);
            for (int w = 0; w < WIDE; w++) sums[h][w] += weight * value[w];
        }
    }
    for (int h = 0; h < HEADS; h++)
        for (int w = 0; w < WIDE; w++) {
            const vec mixed = sums[h][w] * share[h];
            float* to = out + h * model.dim + w * LANES;
            if (left - w * LANES >= LANES)
                store(to, mixed);
            else
                for (int64_t lane = 0; lane < left - w * LANES; lane++) to[lane] = mixed[lane];
        }
}

// `HEADS` query heads of one row over all keys up to its own: scores, softmax, mixture. K and V are read once for all.
template <int HEADS>
static void attend(const Model& model, const Layer& layer, const Batch& batch, int64_t row, int64_t head, float* scores) {
    const int64_t dim = model.dim, length = batch.position[row] + 1, blocks = (length + LANES - 1) / LANES;
    const int64_t stride = batch.context;
    const int32_t* table = batch.tables + batch.sequence[row] * batch.table_width;
    const float* query = batch.fused + row * (model.hidden + 2 * dim) + head * dim;
    const float scale = 1.0f / std::sqrt((float)dim);
    vec top[HEADS];
    for (int h = 0; h < HEADS; h++) top[h] = splat(-1e30f);
    const auto keep_scores = [&](int64_t b, const vec(&sums)[HEADS]) {
        const ints seen = below((int32_t)(length - b * LANES));
        for (int h = 0; h < HEADS; h++) {
            const vec score = pick(seen, sums[h] * scale, splat(-1e30f));
            store(scores + h * stride + b * LANES, score);
            top[h] = larger(top[h], score);
        }
    };
    const auto keys_of = [&](int64_t b) { return layer.keys + table[b < blocks ? b : blocks - 1] * dim * LANES; };
    int64_t done = 0;
    if constexpr (BLOCKS_AT_ONCE == 2)
        for (; done + 2 <= blocks; done += 2) {
            vec sums[2][HEADS];
            const float* const keys[2] = {keys_of(done), keys_of(done + 1)};
            block_scores<HEADS, 2>(query, dim, keys, keys_of(done + 2), sums);
            keep_scores(done, sums[0]);
            keep_scores(done + 1, sums[1]);
        }
    for (; done < blocks; done++) {
        vec sums[1][HEADS];
        const float* const keys[1] = {keys_of(done)};
        const float* values = layer.values + table[0] * LANES * model.padded_dim;
        block_scores<HEADS, 1>(query, dim, keys, done + 1 < blocks ? keys_of(done + 1) : values, sums);
        keep_scores(done, sums[0]);
    }
    float share[HEADS];
    for (int h = 0; h < HEADS; h++) {
        float most = top[h][0];
        for (int lane = 1; lane < LANES; lane++) most = top[h][lane] > most ? top[h][lane] : most;
        vec total = {};
        for (int64_t b = 0; b < blocks; b++) {
            float* at = scores + h * stride + b * LANES;
            const vec weight = pick(below((int32_t)(length - b * LANES)), exponential(load(at) - most), vec{});
            store(at, weight);
            total += weight;
        }
        share[h] = 1.0f / sum(total);
    }
    constexpr int WIDE = wide_for(HEADS);
    int64_t d = 0;
    float* out = batch.mixed + row * model.hidden + head * dim;
    for (; dim - d > (WIDE - 1) * LANES; d += WIDE * LANES)
        mix<HEADS, WIDE>(model, layer.values + d, table, length, scores, stride, share, dim - d, out + d);
    for (; d < dim; d += LANES)
        mix<HEADS, 1>(model, layer.values + d, table, length, scores, stride, share, dim - d, out + d);
}

template <int HEADS>
static void attend_some(int64_t heads, const Model& m, const Layer& l, const Batch& b, int64_t row, int64_t head, float* s) {
    if (heads == HEADS)
        attend<HEADS>(m, l, b, row, head, s);
    else if constexpr (HEADS > 1)
        attend_some<HEADS - 1>(heads, m, l, b, row, head, s);
}

static void summarize(const float* logits, int64_t count, int32_t* best, float* log_total) {
    float most = logits[0];
    int32_t place = 0;
    for (int64_t k = 1; k < count; k++)
        if (logits[k] > most) most = logits[k], place = (int32_t)k;
    vec total = {};
    int64_t k = 0;
    for (; k + LANES <= count; k += LANES) total += exponential(load(logits + k) - most);
    float rest = 0;
    for (; k < count; k++) rest += std::exp(logits[k] - most);
    *best = place;
    *log_total = most + std::log(sum(total) + rest);
}

// Whether this processor multiplies pairs of bfloat16.
extern "C" int has_halves() { return HALVES; }

// Whether that is quicker than making floats of them: Intel's take three times as long as for a product of floats.
extern "C" int has_quick_halves() {
#ifdef __AVX512BF16__
    return !__builtin_cpu_is("intel");
#else
    return 0;
#endif
}

// Whether it multiplies fours of eight bits.
extern "C" int has_quads() { return QUADS_MULTIPLY; }

extern "C" void forward(const Model* given, const Batch* rows_given) {
    const Model& model = *given;
    const Batch& batch = *rows_given;
    const int64_t hidden = model.hidden, rows = batch.rows, fused = hidden + 2 * model.dim;
    const int64_t groups = (model.heads + HEADS_AT_ONCE - 1) / HEADS_AT_ONCE;
    // two threads share one row's heads as evenly as groups allow
    const int64_t group = (model.heads + groups - 1) / groups;
    const bool halves = model.head.kind == PAIRS;
    Barrier barrier;
#pragma omp parallel num_threads(batch.threads)
    {
#pragma omp for schedule(static) nowait
        for (int64_t row = 0; row < rows; row++) {
            const float* token = model.tokens + batch.ids[row] * hidden;
            const float* position = model.positions + batch.position[row] * hidden;
            for (int64_t k = 0; k < hidden; k++) batch.x[row * hidden + k] = token[k] + position[k];
        }
        barrier.wait();
        for (int64_t number = 0; number < model.layers; number++) {
            const Layer& layer = model.layer[number];
#pragma omp for schedule(static) nowait
            for (int64_t row = 0; row < rows; row++) {
                normalize(batch.x + row * hidden, layer.norm1_weight, layer.norm1_bias, model.epsilon, hidden,
                          batch.normed + row * hidden);
                if (halves) halve(batch.normed + row * hidden, hidden, batch.normed_half + row * hidden);
            }
            barrier.wait();
            linear(batch, barrier, rows, batch.normed, batch.normed_half, layer.attention, batch.fused, fused, PLAIN);
            barrier.wait();
#pragma omp for schedule(static) nowait
            for (int64_t row = 0; row < rows; row++) keep(model, layer, batch, row);
            barrier.wait();
#pragma omp for schedule(dynamic) nowait
            for (int64_t item = 0; item < rows * groups; item++) {
                const int64_t row = item / groups, head = item % groups * group;
                const int64_t count = model.heads - head < group ? model.heads - head : group;
                if (count > 0)
                    attend_some<HEADS_AT_ONCE>(count, model, layer, batch, row, head,
                                               batch.scratch + omp_get_thread_num() * HEADS_AT_ONCE * batch.context);
                const int64_t at = row * hidden + head * model.dim;
                if (halves && count > 0) halve(batch.mixed + at, count * model.dim, batch.mixed_half + at);
            }
            barrier.wait();
            linear(batch, barrier, rows, batch.mixed, batch.mixed_half, layer.projection, batch.x, hidden, ADD);
            barrier.wait();
#pragma omp for schedule(static) nowait
            for (int64_t row = 0; row < rows; row++) {
                normalize(batch.x + row * hidden, layer.norm2_weight, layer.norm2_bias, model.epsilon, hidden,
                          batch.normed + row * hidden);
                if (halves) halve(batch.normed + row * hidden, hidden, batch.normed_half + row * hidden);
            }
            barrier.wait();
            const int64_t wide = layer.widen.outputs;
            if (halves)
                linear(batch, barrier, rows, batch.normed, batch.normed_half, layer.widen, batch.wide_half, wide, GELU);
            else
                linear(batch, barrier, rows, batch.normed, batch.normed_half, layer.widen, batch.wide, wide, GELU);
            barrier.wait();
            linear(batch, barrier, rows, halves ? nullptr : batch.wide, batch.wide_half, layer.narrow, batch.x, hidden, ADD);
            barrier.wait();
        }
#pragma omp for schedule(static) nowait
        for (int64_t number = 0; number < batch.wanted; number++) {
            normalize(batch.x + batch.wanted_rows[number] * hidden, model.norm_weight, model.norm_bias, model.epsilon, hidden,
                      batch.normed + number * hidden);
            if (halves) halve(batch.normed + number * hidden, hidden, batch.normed_half + number * hidden);
        }
        barrier.wait();
        linear(batch, barrier, batch.wanted, batch.normed, batch.normed_half, model.head, batch.logits, model.vocabulary, PLAIN);
        barrier.wait();
#pragma omp for schedule(static) nowait
        for (int64_t number = 0; number < batch.wanted; number++)
            summarize(batch.logits + number * model.vocabulary, model.vocabulary, batch.best + number,
                      batch.log_total + number);
        barrier.wait();
    }
}
