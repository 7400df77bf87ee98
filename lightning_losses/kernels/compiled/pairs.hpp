// Two networks' scores of a chunk of tokens, each over its head, and the sums over the vocabulary of both.
#pragma once

#include <cmath>
#include <memory>
#include <optional>

#include "divergences.hpp"
#include "scores.hpp"
#include "threads.hpp"

// One of the two networks: a chunk of its hidden states, its head, and where its scores lie.
struct Network {
    const void* hidden;  // [tokens, width], or null where the scores are there already
    const void* weight;  // [vocabulary, width]
    const float* bias;   // [vocabulary], or null
    float* scores;       // [vocabulary, stride]
    float* picked;       // [tokens] the target's score, or null where there is no target
    const float* shift;  // [tokens] what is subtracted from scores before they are summed, or null
    int64_t width;
};

enum { STUDENT, TEACHER };

struct Pair {
    Network networks[2];
    const int64_t* target;  // [tokens], or null
    int64_t tokens, vocabulary, stride, threads;
    float sharpness;   // 1 / temperature
    int32_t excluding;  // whether the targets are left out of both softmaxes
    int32_t whole;      // whether exponentials of the scores as they are, not softened, are summed too
};

// Over the vocabulary, of the softened scores: each network's exponentials, then as they are; the exponentials of either
// times its logarithm's lead, a masked one's taken as 0, and without, where no network masks the class.
enum { SOFT_S, SOFT_T, WHOLE_S, WHOLE_T, FORWARD_GAIN, FORWARD_MASS, REVERSE_GAIN, REVERSE_MASS, SUMS };

namespace {

// A thread's part of the vocabulary, with room for [lines, tokens up to 16].
struct Part {
    int64_t start, stop;
    std::unique_ptr<Space> sums;

    float* line(int64_t number, const Pair& pair) const { return sums->floats() + number * pair.stride; }
};

std::vector<Part> parts_with(const Pair& pair, int64_t lines, int64_t step) {
    std::vector<Part> parts;
    for (const auto& [start, stop] : parts_of(pair.vocabulary, pair.threads, step))
        parts.push_back({start, stop, std::make_unique<Space>(lines * pair.stride * UNIT)});
    return parts;
}

void add_lines(const std::vector<Part>& parts, const Pair& pair, int64_t line, float* to) {
    for (const auto& part : parts)
        for (int64_t i = 0; i < pair.tokens; ++i) to[i] += part.line(line, pair)[i];
}

const float* scores_at(const Pair& pair, int network, int64_t row, int64_t token) {
    return pair.networks[network].scores + row * pair.stride + token;
}

void add_sums(const Pair& pair, const Part& part, int64_t start, int64_t stop) {
    const __m512 sharpness = constant(pair.sharpness);
    for (int64_t at = 0; at < pair.tokens; at += LANES) {
        const __mmask16 lanes = lanes_below(pair.tokens - at);
        __m512 shift[2], sums[SUMS];
        for (int n : {STUDENT, TEACHER})
            shift[n] = pair.networks[n].shift ? load(pair.networks[n].shift + at, lanes) : _mm512_setzero_ps();
        // From 0 for each tile: added to one by one, the sum of a large vocabulary would lose digits.
        for (int n = 0; n < SUMS; ++n) sums[n] = _mm512_setzero_ps();
        for (int64_t row = start; row < stop; ++row) {
            __m512 soft[2], e[2];
#pragma GCC unroll 2
            for (int n : {STUDENT, TEACHER}) {
                const __m512 score = _mm512_load_ps(scores_at(pair, n, row, at));
                soft[n] = _mm512_mul_ps(score, sharpness);
                e[n] = exponential<float>(_mm512_mul_ps(_mm512_sub_ps(score, shift[n]), sharpness));
                sums[SOFT_S + n] = _mm512_add_ps(sums[SOFT_S + n], e[n]);
                if (pair.whole)
                    sums[WHOLE_S + n] =
                        _mm512_add_ps(sums[WHOLE_S + n], exponential<float>(_mm512_sub_ps(score, shift[n])));
            }
            const __mmask16 there[2] = {present(soft[STUDENT]), present(soft[TEACHER])};
            const __mmask16 both = there[STUDENT] & there[TEACHER];
            const __m512 student = _mm512_maskz_mov_ps(there[STUDENT], soft[STUDENT]);
            const __m512 lead = _mm512_sub_ps(_mm512_maskz_mov_ps(there[TEACHER], soft[TEACHER]), student);
            const __m512 gain = pair.excluding ? _mm512_sub_ps(_mm512_setzero_ps(), student) : lead;
            sums[FORWARD_GAIN] = _mm512_fmadd_ps(e[TEACHER], gain, sums[FORWARD_GAIN]);
            sums[FORWARD_MASS] = _mm512_mask_add_ps(sums[FORWARD_MASS], both, sums[FORWARD_MASS], e[TEACHER]);
            sums[REVERSE_GAIN] = _mm512_fnmadd_ps(e[STUDENT], lead, sums[REVERSE_GAIN]);
            sums[REVERSE_MASS] = _mm512_mask_add_ps(sums[REVERSE_MASS], both, sums[REVERSE_MASS], e[STUDENT]);
        }
        for (int n = 0; n < SUMS; ++n) {
            float* place = part.line(n, pair) + at;
            _mm512_store_ps(place, _mm512_add_ps(_mm512_load_ps(place), sums[n]));
        }
    }
}

// Puts a network's scores where they lie.
struct Writing {
    float* scores;
    int64_t stride;

    template <int V>
    void take(__m512 (&c)[ROWS][V], int64_t row, int64_t count, int64_t token) {
        for (int r = 0; r < count; ++r)
            for (int v = 0; v < V; ++v) _mm512_store_ps(scores + (row + r) * stride + token + LANES * v, c[r][v]);
    }
};

template <class T>
class Scorer {
    const Pair& pair;
    const Part& part;
    std::optional<ScoreWalk<T>> walks[2];

public:
    Scorer(const Pair& pair, const Part& part, const Space* const (&panels)[2]) : pair(pair), part(part) {
        for (int n : {STUDENT, TEACHER}) {
            const Network& network = pair.networks[n];
            if (!network.hidden) continue;
            const Head<T> head{static_cast<const T*>(network.weight), network.bias, network.width};
            walks[n].emplace(head, panels[n]->start, pair.tokens);
        }
    }

    void run(bool sums) {
        for (int64_t tile = part.start; tile < part.stop; tile += TILE<T>) {
            const int64_t stop = std::min(tile + TILE<T>, part.stop);
            for (int n : {STUDENT, TEACHER}) {
                const Network& network = pair.networks[n];
                Writing writing{network.scores, pair.stride};
                if (walks[n]) walks[n]->tile(tile, stop - tile, writing);
                for (int64_t i = 0; network.picked && i < pair.tokens; ++i) {
                    if (pair.target[i] < tile || pair.target[i] >= stop) continue;
                    float& score = network.scores[pair.target[i] * pair.stride + i];
                    network.picked[i] = score;
                    if (pair.excluding) score = -INFINITY;
                }
            }
            if (sums) add_sums(pair, part, tile, stop);
        }
    }
};

template <class T>
void score(const Pair& pair, float* sums) {
    std::unique_ptr<Space> panels[2];
    for (int n : {STUDENT, TEACHER}) {
        const Network& network = pair.networks[n];
        use_large_pages(network.scores, pair.vocabulary * pair.stride * UNIT);
        if (!network.hidden) continue;
        panels[n] = std::make_unique<Space>(rounded_up(pair.tokens, COLUMNS) * units_of<T>(network.width) * UNIT);
        pack_turned(static_cast<const T*>(network.hidden), pair.tokens, network.width, panels[n]->start);
    }
    const Space* const given[2] = {panels[STUDENT].get(), panels[TEACHER].get()};
    const auto parts = parts_with(pair, SUMS, TILE<T>);
    in_threads(parts.size(), [&](int64_t i) { Scorer<T>(pair, parts[i], given).run(sums); });
    for (int n = 0; sums && n < SUMS; ++n) add_lines(parts, pair, n, sums + n * pair.stride);
}

}  // namespace
