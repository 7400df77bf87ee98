// The walk over a head that makes its scores: six rows of the weight with up to 64 tokens at a time, in registers.
#pragma once

#include <algorithm>

#include "products.hpp"

namespace {

constexpr int64_t TILE_UNITS = 96;    // of the vocabulary: a panel of as many fits the first cache
constexpr int64_t DEPTH_UNITS = 512;  // of the width: a chunk's panels of as many fit the second cache

template <class T>
constexpr int64_t TILE = TILE_UNITS * PER_UNIT<T>;

template <class T>
struct Head {
    const T* weight;    // [vocabulary, width]
    const float* bias;  // [vocabulary], or null
    int64_t width;
};

// A thread's walk. Who takes the scores has
//     template <int V> void take(__m512 (&scores)[ROWS][V], int64_t row, int64_t count, int64_t token);
// for `count` rows of the head from `row` on and 16 V tokens from `token` on; the others are not to be read.
template <class T>
class ScoreWalk {
    const Head<T> head;
    const char* const panels;  // the chunk's hidden states, turned
    const int64_t tokens, units;
    Space sums, few;

public:
    ScoreWalk(const Head<T>& head, const char* panels, int64_t tokens)
        : head(head), panels(panels), tokens(tokens), units(units_of<T>(head.width)),
          sums(units > DEPTH_UNITS ? TILE<T> * rounded_up(tokens, COLUMNS) * UNIT : 0), few(ROWS * units * UNIT) {}

    template <class Taker>
    void tile(int64_t start, int64_t rows, Taker& taker) {
        for (int64_t depth = 0; depth < units; depth += DEPTH_UNITS)
            for (int64_t r = 0; r < rows; r += ROWS) score_rows(start, r, std::min(ROWS, rows - r), depth, taker);
    }

private:
    template <class Taker>
    void score_rows(int64_t start, int64_t row, int64_t count, int64_t depth, Taker& taker) {
        const int64_t bytes = head.width * sizeof(T);
        const char* left = reinterpret_cast<const char*>(head.weight + (start + row) * head.width);
        int64_t apart = bytes;
        if (count < ROWS || bytes % UNIT) {
            std::memset(few.start, 0, ROWS * units * UNIT);
            for (int64_t r = 0; r < count; ++r) std::memcpy(few.start + r * units * UNIT, left + r * bytes, bytes);
            left = few.start;
            apart = units * UNIT;
        }
        for (int64_t token = 0; token < tokens; token += COLUMNS) {
            const int64_t more = tokens - token;
            if (more > 3 * LANES) score_block<4>(start, row, count, depth, token, left, apart, taker);
            else if (more > 2 * LANES) score_block<3>(start, row, count, depth, token, left, apart, taker);
            else if (more > LANES) score_block<2>(start, row, count, depth, token, left, apart, taker);
            else score_block<1>(start, row, count, depth, token, left, apart, taker);
        }
    }

    template <int V, class Taker>
    void score_block(int64_t start, int64_t row, int64_t count, int64_t depth, int64_t token, const char* left,
                     int64_t apart, Taker& taker) {
        const int64_t first = start + row, here = std::min(DEPTH_UNITS, units - depth);
        float* kept = sums.floats() + row * rounded_up(tokens, COLUMNS) + token * ROWS;
        __m512 c[ROWS][V];
        for (int r = 0; r < ROWS; ++r) {
            const __m512 bias = constant(head.bias && r < count ? head.bias[first + r] : 0.0f);
            for (int v = 0; v < V; ++v) c[r][v] = depth ? _mm512_load_ps(kept + r * COLUMNS + LANES * v) : bias;
        }
        const char* const panel = panels + (token / COLUMNS * units + depth) * PANEL_UNIT;
        // While the first tokens' product runs, the next rows of the weight come.
        const char* const next = reinterpret_cast<const char*>(head.weight + (first + ROWS) * head.width);
        const char* const a = left + depth * UNIT;
        if (token) multiply<T>(c, a, apart, UNIT, panel, here);
        else multiply<T, true>(c, a, apart, UNIT, panel, here, next + depth * ROWS * UNIT, ROWS * UNIT);
        if (depth + here == units) {
            taker.take(c, first, count, token);
            return;
        }
        for (int r = 0; r < ROWS; ++r)
            for (int v = 0; v < V; ++v) _mm512_store_ps(kept + r * COLUMNS + LANES * v, c[r][v]);
    }
};

}  // namespace
