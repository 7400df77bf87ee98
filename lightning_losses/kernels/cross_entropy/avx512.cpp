// The two walks of the chunked linear cross-entropy over the rows of a head, for CPUs with AVX-512.
//
// A unit is the four bytes that one lane of a product takes: a float, or two neighbouring bfloat16 numbers. A product's
// right-hand side lies in panels of 64 columns, unit by unit, which four registers hold; its left-hand side is
// broadcast from six rows, so that 24 registers of sums hide the latency of the multiplication.
#include <immintrin.h>
#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

using bfloat16 = uint16_t;

// OpenMP's own threads, if PyTorch has brought them: others would share the cores with these, which spin for a while.
extern "C" {
[[gnu::weak]] void GOMP_parallel(void (*function)(void*), void* data, unsigned threads, unsigned flags);
[[gnu::weak]] int omp_get_thread_num();
[[gnu::weak]] int omp_get_num_threads();
}

// A chunk of tokens and the head. `exponentials` has one row for each of the head's, `stride` numbers apart.
struct Chunk {
    const void* hidden;     // [tokens, width]
    const void* weight;     // [vocabulary, width]
    const float* bias;      // [vocabulary], or null
    const int64_t* target;  // [tokens]; outside of the vocabulary where another process holds it
    void* exponentials;     // [vocabulary, tokens]
    int64_t tokens, width, vocabulary, stride, threads;
    float softcap;  // scores are bent to softcap tanh(score / softcap); 0 leaves them
};

// What scoring a chunk finds.
struct Scores {
    const float* shift;  // [tokens], subtracted from every score, or null
    // With a softcap a gradient may be made in the exponentials' place: (share e - smoothing weight) slope.
    const float* share;         // [tokens], or null for exponentials
    const float* class_weight;  // [vocabulary], or null where labels are not smoothed
    float smoothing;
    float* smooth;       // [tokens] the sum of the bent scores, each times its class's weight, or null
    float* picked;       // [tokens] the target's score, untouched where it lies elsewhere
    float* largest;      // [tokens] the largest score but the target's: with it, nothing of what follows is made
    float* others;       // [tokens] the sum of the exponentials, the target's apart
    float* drawn;        // [tokens up to 16, width up to 64] exponentials times weight, or null
};

// What gathering a chunk adds to.
struct Gradients {
    const float* share;   // [tokens] what multiplies a row's exponentials
    const float* corner;  // [tokens] the derivative by the target's score
    void* weight;         // [vocabulary, width], or null
    float* bias;          // [vocabulary], or null: added to beside the weight's alone
    float* hidden;        // what `Scores.drawn` holds, to be completed, or null
    int64_t first;        // whether the weight's gradient is overwritten
};

namespace {

constexpr int64_t LANES = 16;
constexpr int64_t COLUMNS = 64;        // of a panel
constexpr int64_t UNIT = 4;            // bytes
constexpr int64_t PANEL_UNIT = 256;    // bytes of one unit of all columns
constexpr int64_t ROWS = 6;            // of the left-hand side
constexpr int64_t TILE_UNITS = 96;     // of the vocabulary: a panel of as many fits the first cache
constexpr int64_t DEPTH_UNITS = 512;   // of the width: a chunk's panels of as many fit the second cache
constexpr int64_t BLOCK = 8 * ROWS;    // rows of the head whose gradient stays in the cache

template <class T>
constexpr int64_t PER_UNIT = UNIT / sizeof(T);

int64_t rounded_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

template <class T>
int64_t units_of(int64_t numbers) { return rounded_up(numbers, PER_UNIT<T>) / PER_UNIT<T>; }

// Memory of the system's own: given back at once, where the heap would keep the largest chunk's.
class Space {
    static constexpr int ACCESS = PROT_READ | PROT_WRITE;
    const int64_t bytes;

public:
    char* const start;

    explicit Space(int64_t bytes)
        : bytes(bytes),
          start(bytes == 0 ? nullptr
                           : static_cast<char*>(mmap(nullptr, bytes, ACCESS, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))) {
        if (start == MAP_FAILED) throw std::bad_alloc();
    }
    Space(const Space&) = delete;
    ~Space() {
        if (start) munmap(start, bytes);
    }
    float* floats() const { return reinterpret_cast<float*>(start); }
};

__mmask16 lanes_below(int64_t count) { return count >= LANES ? 0xffff : count <= 0 ? 0 : (1u << count) - 1; }
__mmask32 halves_below(int64_t count) { return count >= 32 ? 0xffffffff : count <= 0 ? 0 : (1u << count) - 1; }

inline __m512 widened(__m256i halves) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}
inline __m256i narrowed(__m512 values) { return (__m256i)_mm512_cvtneps_pbh(values); }

inline __m512 load(const float* from, __mmask16 lanes) { return _mm512_maskz_loadu_ps(lanes, from); }
inline __m512 load(const bfloat16* from, __mmask16 lanes) { return widened(_mm256_maskz_loadu_epi16(lanes, from)); }
inline void store(float* to, __m512 values, __mmask16 lanes) {
    if (lanes == 0xffff) _mm512_storeu_ps(to, values);
    else _mm512_mask_storeu_ps(to, lanes, values);
}
inline void store(bfloat16* to, __m512 values, __mmask16 lanes) {
    if (lanes == 0xffff) _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), narrowed(values));
    else _mm256_mask_storeu_epi16(to, lanes, narrowed(values));
}

// One product a lane for float, two for bfloat16.
template <class T>
inline __m512 add_product(__m512 sum, __m512i a, __m512i b) {
    if constexpr (std::is_same_v<T, float>)
        return _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum);
    else
        return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
}

// sums[r][v] += a[r] . b[v]; the rows and units of a lie `row` and `unit` bytes apart. With AHEAD, memory from `next`
// on is fetched on the way, `stride` bytes a unit: at once it would hold the products up.
template <class T, bool AHEAD = false, int R, int V>
[[gnu::always_inline]] inline void multiply(__m512 (&sums)[R][V], const char* a, int64_t row, int64_t unit,
                                            const char* b, int64_t units, const char* next = nullptr,
                                            int64_t stride = 0) {
    // In registers of their own: sums whose address is taken elsewhere would be stored after every product.
    __m512 c[R][V];
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) c[r][v] = sums[r][v];
    for (int64_t u = 0; u < units; ++u, a += unit, b += PANEL_UNIT) {
        __m512i right[V];
        if constexpr (AHEAD) _mm_prefetch(next + u * stride, _MM_HINT_T0);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) right[v] = _mm512_load_si512(b + 64 * v);
#pragma GCC unroll 6
        for (int r = 0; r < R; ++r) {
            int32_t bits;
            std::memcpy(&bits, a + r * row, sizeof bits);
            const __m512i left = _mm512_set1_epi32(bits);
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) c[r][v] = add_product<T>(c[r][v], left, right[v]);
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) sums[r][v] = c[r][v];
}

constexpr int NEAREST = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

inline __m512 constant(float value) { return _mm512_set1_ps(value); }

// exp(x) = 2^n (1 + p f), f in [-1/2, 1/2] and p a polynomial in it, of relative error 1e-7.
struct Power {
    __m512 n, p, f;
};

inline Power power(__m512 x) {
    // Far below the smallest exponent, and at -inf, the exponential is 0; NaN stays, as the second operand.
    x = _mm512_max_ps(constant(-120.0f), x);
    const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, constant(1.44269504f)), NEAREST);
    // ln 2 in two parts, of which the first times n is exact.
    __m512 rest = _mm512_fnmadd_ps(n, constant(0.693359375f), x);
    rest = _mm512_fmadd_ps(n, constant(2.12194440e-4f), rest);
    const __m512 f = _mm512_mul_ps(rest, constant(1.44269504f));
    __m512 p = constant(1.53458208e-4f);
    p = _mm512_fmadd_ps(p, f, constant(1.33999312e-3f));
    p = _mm512_fmadd_ps(p, f, constant(9.61848889e-3f));
    p = _mm512_fmadd_ps(p, f, constant(5.55032878e-2f));
    p = _mm512_fmadd_ps(p, f, constant(2.40226469e-1f));
    return {n, _mm512_fmadd_ps(p, f, constant(6.93147206e-1f)), f};
}

// exp(x), of relative error 1e-7 for float and 3e-6 for bfloat16.
template <class T>
inline __m512 exponential(__m512 x) {
    if constexpr (std::is_same_v<T, float>) {
        const auto [n, p, f] = power(x);
        return _mm512_scalef_ps(_mm512_fmadd_ps(p, f, constant(1.0f)), n);
    } else {
        x = _mm512_max_ps(constant(-120.0f), x);
        const __m512 t = _mm512_mul_ps(x, constant(1.44269504f));
        const __m512 n = _mm512_roundscale_ps(t, NEAREST), f = _mm512_sub_ps(t, n);
        __m512 p = constant(9.57010225e-3f);
        p = _mm512_fmadd_ps(p, f, constant(5.59178601e-2f));
        p = _mm512_fmadd_ps(p, f, constant(2.40247448e-1f));
        p = _mm512_fmadd_ps(p, f, constant(6.93121815e-1f));
        return _mm512_scalef_ps(_mm512_fmadd_ps(p, f, constant(9.99999261e-1f)), n);
    }
}

// tanh(x), of relative error 3e-7: -E / (2 + E) with E = exp(-2 |x|) - 1, whose digits do not cancel where x is small.
inline __m512 hyperbolic_tangent(__m512 x) {
    const auto [n, p, f] = power(_mm512_mul_ps(constant(-2.0f), _mm512_abs_ps(x)));
    const __m512 scale = _mm512_scalef_ps(constant(1.0f), n);
    const __m512 E = _mm512_fmadd_ps(_mm512_mul_ps(scale, p), f, _mm512_sub_ps(scale, constant(1.0f)));
    const __m512 size = _mm512_div_ps(E, _mm512_sub_ps(constant(-2.0f), E));
    return _mm512_or_ps(size, _mm512_and_ps(x, constant(-0.0f)));
}

// [rows, width] turned: panels of 64 rows, [panel][unit of the width][row].
template <class T>
void pack_turned(const T* from, int64_t rows, int64_t width, char* to) {
    const int64_t units = units_of<T>(width);
    std::memset(to, 0, rounded_up(rows, COLUMNS) * units * UNIT);
    for (int64_t r = 0; r < rows; ++r) {
        char* place = to + r / COLUMNS * units * PANEL_UNIT + r % COLUMNS * UNIT;
        for (int64_t d = 0; d < width; ++d) {
            char* there = place + d / PER_UNIT<T> * PANEL_UNIT + d % PER_UNIT<T> * sizeof(T);
            std::memcpy(there, from + r * width + d, sizeof(T));
        }
    }
}

// [rows, width] out of rows of `stride`, each times its factor if there are any: panels of 64 columns,
// [panel][unit of the rows][column].
void pack(const float* from, int64_t rows, int64_t width, int64_t stride, const float* factor, char* to) {
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t d = 0; d < rounded_up(width, COLUMNS); d += LANES) {
            __m512 values = load(from + r * stride + d, lanes_below(width - d));
            if (factor) values = _mm512_mul_ps(values, constant(factor[r]));
            _mm512_store_ps(to + (d / COLUMNS * rows + r) * PANEL_UNIT + d % COLUMNS * UNIT, values);
        }
}

inline __m512i times(__m512i halves, float factor) {
    const __m512 by = constant(factor);
    const __m256i low = narrowed(_mm512_mul_ps(widened(_mm512_castsi512_si256(halves)), by));
    const __m256i high = narrowed(_mm512_mul_ps(widened(_mm512_extracti64x4_epi64(halves, 1)), by));
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

void pack(const bfloat16* from, int64_t rows, int64_t width, int64_t stride, const float* factor, char* to) {
    const int64_t units = units_of<bfloat16>(rows);
    alignas(64) uint16_t order[2][32];  // of the numbers of two rows, side by side
    for (int i = 0; i < 64; ++i) order[i / 32][i % 32] = i / 2 + i % 2 * 32;
    const __m512i low = _mm512_load_si512(order[0]), high = _mm512_load_si512(order[1]);
    for (int64_t r = 0; r < rows; r += 2) {
        const bool both = r + 1 < rows;
        for (int64_t d = 0; d < rounded_up(width, COLUMNS); d += 32) {
            const __mmask32 lanes = halves_below(width - d);
            const bfloat16* place = from + r * stride + d;
            __m512i one = _mm512_maskz_loadu_epi16(lanes, place);
            __m512i other = both ? _mm512_maskz_loadu_epi16(lanes, place + stride) : _mm512_setzero_si512();
            if (factor) one = times(one, factor[r]);
            if (factor && both) other = times(other, factor[r + 1]);
            char* there = to + (d / COLUMNS * units + r / 2) * PANEL_UNIT + d % COLUMNS * UNIT;
            _mm512_store_si512(there, _mm512_permutex2var_epi16(one, low, other));
            _mm512_store_si512(there + 64, _mm512_permutex2var_epi16(one, high, other));
        }
    }
}

// A thread's part of the vocabulary, and what it finds there.
struct Part {
    int64_t start, stop;
    std::unique_ptr<Space> others, largest, smooth, own_drawn;
    float* drawn = nullptr;
};

// One walk of a thread over its part: scores, exponentials and what they draw from the weight.
template <class T>
class Scorer {
    static constexpr int64_t TILE = TILE_UNITS * PER_UNIT<T>;

    const Chunk& chunk;
    const Scores& scores;
    const Part& part;
    const char* panels;  // the chunk's hidden states, turned
    const int64_t units, columns;
    Space turned, packed, sums, few;
    std::vector<int64_t> hits;  // tokens whose target lies in the tile

    const T* weight() const { return static_cast<const T*>(chunk.weight); }
    bool draws() const { return scores.drawn && !scores.largest; }

public:
    Scorer(const Chunk& chunk, const Scores& scores, const Part& part, const char* panels)
        : chunk(chunk), scores(scores), part(part), panels(panels), units(units_of<T>(chunk.width)),
          columns(rounded_up(chunk.width, COLUMNS)),
          turned(draws() ? rounded_up(chunk.tokens, LANES) * TILE_UNITS * UNIT : 0),
          packed(draws() ? TILE_UNITS * PANEL_UNIT : 0),
          sums(units > DEPTH_UNITS ? TILE * rounded_up(chunk.tokens, COLUMNS) * UNIT : 0), few(ROWS * units * UNIT) {}

    void walk() {
        for (int64_t tile = part.start; tile < part.stop; tile += TILE) {
            const int64_t rows = std::min(TILE, part.stop - tile);
            hits.clear();
            for (int64_t i = 0; i < chunk.tokens; ++i)
                if (chunk.target[i] >= tile && chunk.target[i] < tile + rows) hits.push_back(i);
            // A width of 0 still has scores: the bias.
            for (int64_t depth = 0; depth == 0 || depth < units; depth += DEPTH_UNITS)
                for (int64_t r = 0; r < rows; r += ROWS) score_rows(tile, r, std::min(ROWS, rows - r), depth);
            if (draws()) draw(tile, rows);
        }
    }

private:
    void score_rows(int64_t tile, int64_t row, int64_t count, int64_t depth) {
        const int64_t bytes = chunk.width * sizeof(T);
        const char* left = reinterpret_cast<const char*>(weight() + (tile + row) * chunk.width);
        int64_t apart = bytes;
        if (count < ROWS || bytes % UNIT) {
            std::memset(few.start, 0, ROWS * units * UNIT);
            for (int64_t r = 0; r < count; ++r) std::memcpy(few.start + r * units * UNIT, left + r * bytes, bytes);
            left = few.start;
            apart = units * UNIT;
        }
        for (int64_t token = 0; token < chunk.tokens; token += COLUMNS) {
            const int64_t more = chunk.tokens - token;
            if (more > 3 * LANES) score_block<4>(tile, row, count, depth, token, left, apart);
            else if (more > 2 * LANES) score_block<3>(tile, row, count, depth, token, left, apart);
            else if (more > LANES) score_block<2>(tile, row, count, depth, token, left, apart);
            else score_block<1>(tile, row, count, depth, token, left, apart);
        }
    }

    template <int V>
    void score_block(int64_t tile, int64_t row, int64_t count, int64_t depth, int64_t token, const char* left,
                     int64_t apart) {
        const int64_t first = tile + row, here = std::min(DEPTH_UNITS, units - depth);
        float* kept = sums.floats() + row * rounded_up(chunk.tokens, COLUMNS) + token * ROWS;
        __m512 c[ROWS][V];
        for (int r = 0; r < ROWS; ++r) {
            const __m512 bias = constant(chunk.bias && r < count ? chunk.bias[first + r] : 0.0f);
            for (int v = 0; v < V; ++v) c[r][v] = depth ? _mm512_load_ps(kept + r * COLUMNS + LANES * v) : bias;
        }
        const char* const panel = panels + (token / COLUMNS * units + depth) * PANEL_UNIT;
        // While the first tokens' product runs, the next rows of the weight come.
        const char* const next = reinterpret_cast<const char*>(weight() + (first + ROWS) * chunk.width);
        const char* const a = left + depth * UNIT;
        if (token) multiply<T>(c, a, apart, UNIT, panel, here);
        else multiply<T, true>(c, a, apart, UNIT, panel, here, next + depth * ROWS * UNIT, ROWS * UNIT);
        if (depth + here < units) {
            for (int r = 0; r < ROWS; ++r)
                for (int v = 0; v < V; ++v) _mm512_store_ps(kept + r * COLUMNS + LANES * v, c[r][v]);
            return;
        }
        if (chunk.softcap) bend<V>(c, first, count, token);
        for (const int64_t i : hits) {
            const int64_t r = chunk.target[i] - first;
            if (r < 0 || r >= count || i < token || i >= token + LANES * V) continue;
            alignas(64) float values[ROWS][LANES * V];
            for (int q = 0; q < ROWS; ++q)
                for (int v = 0; v < V; ++v) _mm512_store_ps(&values[q][LANES * v], c[q][v]);
            scores.picked[i] = values[r][i - token];
            values[r][i - token] = -INFINITY;
            for (int q = 0; q < ROWS; ++q)
                for (int v = 0; v < V; ++v) c[q][v] = _mm512_load_ps(&values[q][LANES * v]);
        }
        for (int v = 0; v < V; ++v) {
            const int64_t at = token + LANES * v;
            if (scores.largest) {
                float* place = part.largest->floats() + at;
                __m512 largest = _mm512_load_ps(place);
                for (int r = 0; r < count; ++r) largest = _mm512_max_ps(largest, c[r][v]);
                _mm512_store_ps(place, largest);
            } else {
                exponentiate(tile, row, count, at, c[0] + v, V);
            }
        }
    }

    // Six rows' scores of up to 64 tokens by the softcap, and what label smoothing asks of them.
    template <int V>
    [[gnu::always_inline]] void bend(__m512 (&c)[ROWS][V], int64_t first, int64_t count, int64_t token) {
        for (int v = 0; v < V; ++v) {
            float* place = part.smooth->floats() + token + LANES * v;
            __m512 smooth = _mm512_load_ps(place);
            for (int r = 0; r < ROWS; ++r) {
                const __m512 bent = hyperbolic_tangent(_mm512_mul_ps(c[r][v], constant(1.0f / chunk.softcap)));
                c[r][v] = _mm512_mul_ps(bent, constant(chunk.softcap));
                if (scores.smooth && r < count)
                    smooth = _mm512_fmadd_ps(constant(scores.class_weight[first + r]), c[r][v], smooth);
            }
            _mm512_store_ps(place, smooth);
        }
    }

    // The softcap's slope where it has bent a score; 0 where the target's was taken out.
    __m512 slope(__m512 score) const {
        const __m512 t = _mm512_mul_ps(score, constant(1.0f / chunk.softcap));
        return _mm512_max_ps(_mm512_setzero_ps(), _mm512_fnmadd_ps(t, t, constant(1.0f)));
    }

    // Six rows' exponentials of 16 tokens: summed, stored, and turned for the product that draws.
    [[gnu::always_inline]] void exponentiate(int64_t tile, int64_t row, int64_t count, int64_t at, const __m512* c,
                                             int apart) {
        const __mmask16 lanes = lanes_below(chunk.tokens - at);
        const __m512 shift = scores.shift ? load(scores.shift + at, lanes) : _mm512_setzero_ps();
        float* place = part.others->floats() + at;
        __m512 others = _mm512_load_ps(place), e[ROWS];
#pragma GCC unroll 6
        for (int r = 0; r < ROWS; ++r) {
            const __m512 value = exponential<T>(_mm512_sub_ps(c[r * apart], shift));
            e[r] = _mm512_maskz_mov_ps(r < count ? lanes : 0, value);
            others = _mm512_add_ps(others, e[r]);
            if (chunk.softcap) e[r] = _mm512_mul_ps(e[r], slope(c[r * apart]));
        }
        if (scores.share) {
            const __m512 share = load(scores.share + at, lanes);
            for (int r = 0; r < count; ++r) {
                const __m512 smoothing = constant(scores.smoothing * scores.class_weight[tile + row + r]);
                const __m512 smoothed = _mm512_mul_ps(smoothing, slope(c[r * apart]));
                e[r] = _mm512_maskz_sub_ps(lanes, _mm512_mul_ps(share, e[r]), smoothed);
            }
        }
        _mm512_store_ps(place, others);
        T* to = static_cast<T*>(chunk.exponentials) + (tile + row) * chunk.stride + at;
#pragma GCC unroll 6
        for (int r = 0; r < ROWS; ++r)
            if (r < count) store(to + r * chunk.stride, e[r], lanes);
        if (!draws()) return;
        char* there = turned.start + (at / LANES * TILE_UNITS + row / PER_UNIT<T>) * 64;
#pragma GCC unroll 6
        for (int r = 0; r < ROWS; r += PER_UNIT<T>) {
            if constexpr (std::is_same_v<T, float>) {
                _mm512_store_ps(there + r * 64, e[r]);
            } else {
                const __m512i low = _mm512_cvtepu16_epi32(narrowed(e[r]));
                const __m512i high = _mm512_cvtepu16_epi32(narrowed(e[r + 1]));
                _mm512_store_si512(there + r * 32, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
            }
        }
    }

    void draw(int64_t tile, int64_t rows) {
        const int64_t depth = units_of<T>(rows);
        const T* from = weight() + tile * chunk.width;
        for (int64_t column = 0; column < columns; column += COLUMNS) {
            // A panel at a time, which then is in the first cache.
            pack(from + column, rows, std::min(COLUMNS, chunk.width - column), chunk.width, nullptr, packed.start);
            for (int64_t token = 0; token < chunk.tokens; token += LANES) {
                float* to = part.drawn + token * columns + column;
                const char* a = turned.start + token * TILE_UNITS * UNIT;
                // Sixteen rows are six and twice five.
                draw_block<6>(to, a, packed.start, depth);
                draw_block<5>(to + 6 * columns, a + 6 * UNIT, packed.start, depth);
                draw_block<5>(to + 11 * columns, a + 11 * UNIT, packed.start, depth);
            }
        }
    }

    template <int R>
    void draw_block(float* to, const char* a, const char* b, int64_t depth) {
        __m512 c[R][4];
        for (int r = 0; r < R; ++r)
            for (int v = 0; v < 4; ++v) c[r][v] = _mm512_load_ps(to + r * columns + LANES * v);
        multiply<T>(c, a, UNIT, 64, b, depth);
        for (int r = 0; r < R; ++r)
            for (int v = 0; v < 4; ++v) _mm512_store_ps(to + r * columns + LANES * v, c[r][v]);
    }
};

using Hit = std::pair<int64_t, int64_t>;  // a row of the head, and a token whose target it is

template <class T, class G>
void gather_block(const Chunk& chunk, const Gradients& gradients, const char* left, const char* panel, int64_t row,
                  int64_t count, int64_t column, const Hit* hit, const Hit* last) {
    G* to = static_cast<G*>(gradients.weight) + row * chunk.width + column;
    // The next rows' gradient, which these rows' product leaves time to fetch.
    for (int64_t r = 0; r < ROWS; ++r)
        for (int64_t i = 0; i < static_cast<int64_t>(COLUMNS * sizeof(G)); i += 64)
            _mm_prefetch(reinterpret_cast<const char*>(to + (ROWS + r) * chunk.width) + i, _MM_HINT_T0);
    const int64_t units = units_of<T>(chunk.tokens);
    __m512 c[ROWS][4];
    const bool whole = count == ROWS && column + COLUMNS <= chunk.width;
    if (gradients.first) {
#pragma GCC unroll 6
        for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
            for (int v = 0; v < 4; ++v) c[r][v] = _mm512_setzero_ps();
    } else if (whole) {
#pragma GCC unroll 6
        for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
            for (int v = 0; v < 4; ++v) c[r][v] = load(to + r * chunk.width + LANES * v, 0xffff);
    } else {
        for (int r = 0; r < ROWS; ++r)
            for (int v = 0; v < 4; ++v) {
                const __mmask16 lanes = r < count ? lanes_below(chunk.width - column - LANES * v) : 0;
                c[r][v] = load(to + r * chunk.width + LANES * v, lanes);
            }
    }
    multiply<T>(c, left, units * UNIT, UNIT, panel, units);
    for (; hit != last; ++hit) {
        const T* hidden = static_cast<const T*>(chunk.hidden) + hit->second * chunk.width + column;
        const __m512 corner = constant(gradients.corner[hit->second]);
        for (int r = 0; r < ROWS; ++r)
            for (int v = 0; v < 4; ++v) {
                const __mmask16 lanes = hit->first == row + r ? lanes_below(chunk.width - column - LANES * v) : 0;
                c[r][v] = _mm512_fmadd_ps(corner, load(hidden + LANES * v, lanes), c[r][v]);
            }
    }
    if (whole) {
#pragma GCC unroll 6
        for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
            for (int v = 0; v < 4; ++v) store(to + r * chunk.width + LANES * v, c[r][v], 0xffff);
        return;
    }
    for (int r = 0; r < count; ++r)
        for (int v = 0; v < 4; ++v)
            store(to + r * chunk.width + LANES * v, c[r][v], lanes_below(chunk.width - column - LANES * v));
}

// One walk of a thread over its part: the gradients of the weight and of the bias.
template <class T, class G>
void gather_part(const Chunk& chunk, const Gradients& gradients, const char* panels, const std::vector<Hit>& hits,
                 int64_t start, int64_t stop) {
    const T* exponentials = static_cast<const T*>(chunk.exponentials);
    const int64_t units = units_of<T>(chunk.tokens);
    const Space left(BLOCK * units * UNIT);
    const Hit* const end = hits.data() + hits.size();
    const Hit* hit = std::lower_bound(hits.data(), end, Hit(start, 0));
    for (int64_t block = start; block < stop; block += BLOCK) {
        const int64_t rows = std::min(BLOCK, stop - block);
        // A copy, since the exponentials may lie where their product goes.
        std::memset(left.start, 0, BLOCK * units * UNIT);
        for (int64_t r = 0; r < rows; ++r)
            std::memcpy(left.start + r * units * UNIT, exponentials + (block + r) * chunk.stride,
                        chunk.tokens * sizeof(T));
        const Hit* next = hit;
        while (next != end && next->first < block + rows) ++next;
        int64_t ahead = block + BLOCK;  // the next exponentials to come, a row with each product
        for (int64_t column = 0; column < chunk.width; column += COLUMNS) {
            const char* panel = panels + column / COLUMNS * units * PANEL_UNIT;
            const Hit* from = hit;
            for (int64_t r = 0; r < rows; r += ROWS) {
                const Hit* to = from;
                while (to != next && to->first < block + r + ROWS) ++to;
                for (int64_t i = 0; i < chunk.tokens * static_cast<int64_t>(sizeof(T)); i += 64)
                    _mm_prefetch(reinterpret_cast<const char*>(exponentials + ahead * chunk.stride) + i, _MM_HINT_T1);
                ++ahead;
                gather_block<T, G>(chunk, gradients, left.start + r * units * UNIT, panel, block + r,
                                   std::min(ROWS, rows - r), column, from, to);
                from = to;
            }
        }
        if (gradients.bias)
            for (int64_t r = 0; r < rows; ++r) {
                const T* e = reinterpret_cast<const T*>(left.start + r * units * UNIT);
                __m512 sum = _mm512_setzero_ps();
                for (int64_t i = 0; i < chunk.tokens; i += LANES) {
                    const __mmask16 lanes = lanes_below(chunk.tokens - i);
                    sum = _mm512_fmadd_ps(load(e + i, lanes), load(gradients.share + i, lanes), sum);
                }
                gradients.bias[block + r] += _mm512_reduce_add_ps(sum);
            }
        if (gradients.bias)
            for (const Hit* at = hit; at != next; ++at) gradients.bias[at->first] += gradients.corner[at->second];
        hit = next;
    }
}

// The gradients of the hidden states: what they drew, times their share, and the target's own entry.
template <class T>
void complete_hidden(const Chunk& chunk, const Gradients& gradients) {
    for (int64_t i = 0; i < chunk.tokens; ++i) {
        float* place = gradients.hidden + i * rounded_up(chunk.width, COLUMNS);
        const bool here = chunk.target[i] >= 0 && chunk.target[i] < chunk.vocabulary;
        const T* own = static_cast<const T*>(chunk.weight) + (here ? chunk.target[i] : 0) * chunk.width;
        const __m512 share = constant(gradients.share[i]), corner = constant(here ? gradients.corner[i] : 0.0f);
        for (int64_t d = 0; d < chunk.width; d += LANES) {
            const __mmask16 lanes = lanes_below(chunk.width - d);
            const __m512 drawn = _mm512_mul_ps(share, load(place + d, lanes));
            store(place + d, here ? _mm512_fmadd_ps(corner, load(own + d, lanes), drawn) : drawn, lanes);
        }
    }
}

// The vocabulary in as many parts as there are threads, in whole steps.
std::vector<std::pair<int64_t, int64_t>> parts_of(int64_t vocabulary, int64_t threads, int64_t step) {
    const int64_t share = std::max(rounded_up((vocabulary + threads - 1) / threads, step), step);
    std::vector<std::pair<int64_t, int64_t>> parts;
    for (int64_t start = 0; start < vocabulary; start += share)
        parts.emplace_back(start, std::min(start + share, vocabulary));
    return parts;
}

template <class Work>
void in_threads(int64_t count, const Work& work) {
    if (count <= 1 || !GOMP_parallel || !omp_get_thread_num || !omp_get_num_threads) {
        std::vector<std::thread> others;
        for (int64_t i = 1; i < count; ++i) others.emplace_back([&work, i] { work(i); });
        if (count) work(0);
        for (auto& other : others) other.join();
        return;
    }
    std::pair<int64_t, const Work*> task(count, &work);
    const auto run = [](void* given) {
        const auto& [count, work] = *static_cast<std::pair<int64_t, const Work*>*>(given);
        for (int64_t i = omp_get_thread_num(); i < count; i += omp_get_num_threads()) (*work)(i);
    };
    GOMP_parallel(run, &task, count, 0);
}

// Ask for large pages where memory is not touched yet: it is cleared faster, and its rows are found faster.
void use_large_pages(void* start, int64_t bytes) {
    constexpr int64_t PAGE = 1 << 21;
    const int64_t address = reinterpret_cast<int64_t>(start);
    const int64_t first = rounded_up(address, PAGE), last = (address + bytes) / PAGE * PAGE;
    if (last > first) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
}

template <class T>
void score(const Chunk& chunk, const Scores& scores) {
    const int64_t tokens = rounded_up(chunk.tokens, COLUMNS), columns = rounded_up(chunk.width, COLUMNS);
    const int64_t drawn_size = rounded_up(chunk.tokens, LANES) * columns;
    const Space panels(tokens * units_of<T>(chunk.width) * UNIT);
    pack_turned(static_cast<const T*>(chunk.hidden), chunk.tokens, chunk.width, panels.start);
    use_large_pages(chunk.exponentials, chunk.vocabulary * chunk.stride * sizeof(T));
    // Before the parts, of which a vocabulary without entries has none; their own memory is new, and 0.
    if (scores.drawn) std::fill_n(scores.drawn, drawn_size, 0.0f);
    std::vector<Part> parts;
    for (const auto& [start, stop] : parts_of(chunk.vocabulary, chunk.threads, TILE_UNITS * PER_UNIT<T>)) {
        Part part{start, stop, std::make_unique<Space>(tokens * UNIT), std::make_unique<Space>(tokens * UNIT),
                  std::make_unique<Space>(tokens * UNIT), nullptr};
        std::fill_n(part.largest->floats(), tokens, -INFINITY);
        if (scores.drawn && !scores.largest) {
            if (!parts.empty()) part.own_drawn = std::make_unique<Space>(drawn_size * UNIT);
            part.drawn = part.own_drawn ? part.own_drawn->floats() : scores.drawn;
        }
        parts.push_back(std::move(part));
    }
    in_threads(parts.size(), [&](int64_t i) { Scorer<T>(chunk, scores, parts[i], panels.start).walk(); });
    for (const auto& part : parts) {
        for (int64_t i = 0; i < chunk.tokens; ++i) {
            if (scores.largest) scores.largest[i] = std::max(scores.largest[i], part.largest->floats()[i]);
            else scores.others[i] += part.others->floats()[i];
            if (scores.smooth) scores.smooth[i] += part.smooth->floats()[i];
        }
        if (part.own_drawn)
            for (int64_t i = 0; i < drawn_size; ++i) scores.drawn[i] += part.drawn[i];
    }
}

template <class T, class G>
void gather(const Chunk& chunk, const Gradients& gradients) {
    if (gradients.hidden) complete_hidden<T>(chunk, gradients);
    if (!gradients.weight) return;
    const Space panels(rounded_up(chunk.width, COLUMNS) * units_of<T>(chunk.tokens) * UNIT);
    pack(static_cast<const T*>(chunk.hidden), chunk.tokens, chunk.width, chunk.width, gradients.share, panels.start);
    std::vector<Hit> hits;
    for (int64_t i = 0; i < chunk.tokens; ++i)
        if (chunk.target[i] >= 0 && chunk.target[i] < chunk.vocabulary) hits.emplace_back(chunk.target[i], i);
    std::sort(hits.begin(), hits.end());
    const auto parts = parts_of(chunk.vocabulary, chunk.threads, BLOCK);
    in_threads(parts.size(), [&](int64_t i) {
        gather_part<T, G>(chunk, gradients, panels.start, hits, parts[i].first, parts[i].second);
    });
}

}  // namespace

extern "C" {

void score_float32(const Chunk* chunk, const Scores* scores) { score<float>(*chunk, *scores); }
void score_bfloat16(const Chunk* chunk, const Scores* scores) { score<bfloat16>(*chunk, *scores); }
void gather_float32_float32(const Chunk* chunk, const Gradients* gradients) { gather<float, float>(*chunk, *gradients); }
void gather_bfloat16_bfloat16(const Chunk* chunk, const Gradients* gradients) { gather<bfloat16, bfloat16>(*chunk, *gradients); }
void gather_bfloat16_float32(const Chunk* chunk, const Gradients* gradients) { gather<bfloat16, float>(*chunk, *gradients); }

}
