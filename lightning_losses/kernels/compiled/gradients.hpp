// The products of a chunk's exponentials or gradients: with the weight, and with the hidden states.
#pragma once

#include <algorithm>
#include <utility>

#include "scores.hpp"

namespace {

constexpr int64_t BLOCK = 8 * ROWS;  // rows of the head whose gradient stays in the cache

// A thread's product of the weight with what is written for a tile of it: the gradient of the hidden states.
template <class T>
class Drawing {
    const T* const weight;  // [vocabulary, width]
    const int64_t tokens, width, columns;
    float* const drawn;  // [tokens up to 16, width up to 64], added to
    Space turned, packed;

public:
    Drawing(const T* weight, int64_t tokens, int64_t width, float* drawn)
        : weight(weight), tokens(tokens), width(width), columns(rounded_up(width, COLUMNS)), drawn(drawn),
          turned(rounded_up(tokens, LANES) * TILE_UNITS * UNIT), packed(TILE_UNITS * PANEL_UNIT) {}

    // Six rows of 16 tokens, `row` of the tile on; 0 where there are no such rows or tokens.
    [[gnu::always_inline]] void write(int64_t row, int64_t token, const __m512 (&e)[ROWS]) {
        char* to = turned.start + (token / LANES * TILE_UNITS + row / PER_UNIT<T>) * 64;
#pragma GCC unroll 6
        for (int r = 0; r < ROWS; r += PER_UNIT<T>) {
            if constexpr (std::is_same_v<T, float>) {
                _mm512_store_ps(to + r * 64, e[r]);
            } else {
                const __m512i low = _mm512_cvtepu16_epi32(narrowed(e[r]));
                const __m512i high = _mm512_cvtepu16_epi32(narrowed(e[r + 1]));
                _mm512_store_si512(to + r * 32, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
            }
        }
    }

    void tile(int64_t start, int64_t rows) {
        const int64_t depth = units_of<T>(rows);
        const T* from = weight + start * width;
        for (int64_t column = 0; column < columns; column += COLUMNS) {
            // A panel at a time, which then is in the first cache.
            pack(from + column, rows, std::min(COLUMNS, width - column), width, nullptr, packed.start);
            for (int64_t token = 0; token < tokens; token += LANES) {
                float* to = drawn + token * columns + column;
                const char* a = turned.start + token * TILE_UNITS * UNIT;
                // Sixteen rows are six and twice five.
                draw_block<6>(to, a, depth);
                draw_block<5>(to + 6 * columns, a + 6 * UNIT, depth);
                draw_block<5>(to + 11 * columns, a + 11 * UNIT, depth);
            }
        }
    }

private:
    template <int R>
    void draw_block(float* to, const char* a, int64_t depth) {
        __m512 c[R][4];
        // From 0: added to one by one, the sum over a large vocabulary would lose digits.
        for (int r = 0; r < R; ++r)
            for (int v = 0; v < 4; ++v) c[r][v] = _mm512_setzero_ps();
        multiply<T>(c, a, UNIT, 64, packed.start, depth);
        for (int r = 0; r < R; ++r)
            for (int v = 0; v < 4; ++v) {
                float* place = to + r * columns + LANES * v;
                _mm512_store_ps(place, _mm512_add_ps(_mm512_load_ps(place), c[r][v]));
            }
    }
};

using Hit = std::pair<int64_t, int64_t>;  // a row of the head, and a token whose target it is

// The gradient of the weight, added to by a block of rows at a time.
template <class T, class G>
struct WeightGradient {
    G* weight;  // [vocabulary, width]
    int64_t tokens, width;
    bool first;           // whether it is overwritten
    const char* panels;   // the hidden states times what they weigh, packed
    const T* hidden;      // [tokens, width], and
    const float* corner;  // [tokens] what multiplies them in their target's row: for the hits

    // Up to BLOCK rows from `row` on, of which those of `left` lie the chunk's units apart; `prefetch` is called with
    // each product.
    template <class Prefetch>
    void add(const char* left, int64_t row, int64_t rows, const Hit* hit, const Hit* last, Prefetch prefetch) const {
        const int64_t units = units_of<T>(tokens);
        for (int64_t column = 0; column < width; column += COLUMNS) {
            const char* panel = panels + column / COLUMNS * units * PANEL_UNIT;
            const Hit* from = hit;
            for (int64_t r = 0; r < rows; r += ROWS) {
                const Hit* to = from;
                while (to != last && to->first < row + r + ROWS) ++to;
                prefetch();
                add_block(left + r * units * UNIT, panel, units, row + r, std::min(ROWS, rows - r), column, from, to);
                from = to;
            }
        }
    }

private:
    void add_block(const char* left, const char* panel, int64_t units, int64_t row, int64_t count, int64_t column,
                   const Hit* hit, const Hit* last) const {
        G* to = weight + row * width + column;
        // The next rows' gradient, which these rows' product leaves time to fetch.
        for (int64_t r = 0; r < ROWS; ++r)
            for (int64_t i = 0; i < static_cast<int64_t>(COLUMNS * sizeof(G)); i += 64)
                _mm_prefetch(reinterpret_cast<const char*>(to + (ROWS + r) * width) + i, _MM_HINT_T0);
        __m512 c[ROWS][4];
        const bool whole = count == ROWS && column + COLUMNS <= width;
        if (first) {
#pragma GCC unroll 6
            for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
                for (int v = 0; v < 4; ++v) c[r][v] = _mm512_setzero_ps();
        } else if (whole) {
#pragma GCC unroll 6
            for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
                for (int v = 0; v < 4; ++v) c[r][v] = load(to + r * width + LANES * v, 0xffff);
        } else {
            for (int r = 0; r < ROWS; ++r)
                for (int v = 0; v < 4; ++v) {
                    const __mmask16 lanes = r < count ? lanes_below(width - column - LANES * v) : 0;
                    c[r][v] = load(to + r * width + LANES * v, lanes);
                }
        }
        multiply<T>(c, left, units * UNIT, UNIT, panel, units);
        for (; hit != last; ++hit) {
            const T* own = hidden + hit->second * width + column;
            const __m512 factor = constant(corner[hit->second]);
            for (int r = 0; r < ROWS; ++r)
                for (int v = 0; v < 4; ++v) {
                    const __mmask16 lanes = hit->first == row + r ? lanes_below(width - column - LANES * v) : 0;
                    c[r][v] = _mm512_fmadd_ps(factor, load(own + LANES * v, lanes), c[r][v]);
                }
        }
        if (whole) {
#pragma GCC unroll 6
            for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
                for (int v = 0; v < 4; ++v) store(to + r * width + LANES * v, c[r][v], 0xffff);
            return;
        }
        for (int r = 0; r < count; ++r)
            for (int v = 0; v < 4; ++v)
                store(to + r * width + LANES * v, c[r][v], lanes_below(width - column - LANES * v));
    }
};

}  // namespace
