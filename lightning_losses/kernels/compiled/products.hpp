// Products in registers, for CPUs with AVX-512, and the order in which their operands lie.
//
// A unit is the four bytes that one lane of a product takes: a float, or two neighbouring bfloat16 numbers. A product's
// right-hand side lies in panels of 64 columns, unit by unit, which four registers hold; its left-hand side is
// broadcast from six rows, so that 24 registers of sums hide the latency of the multiplication.
#pragma once

#include <immintrin.h>
#include <sys/mman.h>

#include <cstdint>
#include <cstring>
#include <new>
#include <type_traits>

using bfloat16 = uint16_t;

namespace {

constexpr int64_t LANES = 16;
constexpr int64_t COLUMNS = 64;      // of a panel
constexpr int64_t UNIT = 4;          // bytes
constexpr int64_t PANEL_UNIT = 256;  // bytes of one unit of all columns
constexpr int64_t ROWS = 6;          // of the left-hand side

template <class T>
constexpr int64_t PER_UNIT = UNIT / sizeof(T);

inline int64_t rounded_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

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

inline __mmask16 lanes_below(int64_t count) { return count >= LANES ? 0xffff : count <= 0 ? 0 : (1u << count) - 1; }
inline __mmask32 halves_below(int64_t count) { return count >= 32 ? 0xffffffff : count <= 0 ? 0 : (1u << count) - 1; }

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

inline __m512 constant(float value) { return _mm512_set1_ps(value); }

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
inline void pack(const float* from, int64_t rows, int64_t width, int64_t stride, const float* factor, char* to) {
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

inline void pack(const bfloat16* from, int64_t rows, int64_t width, int64_t stride, const float* factor, char* to) {
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

}  // namespace
