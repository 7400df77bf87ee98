// The two walks of the chunked linear cross-entropy over the rows of a head, for CPUs with AVX-512.
#include <cmath>
#include <memory>
#include <optional>

#include "../compiled/exponential.hpp"
#include "../compiled/gradients.hpp"
#include "../compiled/scores.hpp"
#include "../compiled/threads.hpp"

// A chunk of tokens and the head. `exponentials` has one row for each of the head's, `stride` numbers apart.
struct Chunk {
    const void* hidden;     // [tokens, width]
    const void* weight;     // [vocabulary, width]
    const float* bias;      // [vocabulary], or null
    const int64_t* target;  // [tokens]; outside of the vocabulary where another process holds it
    void* exponentials;     // [vocabulary, tokens]
    int64_t tokens, width, vocabulary, stride, threads;
    float softcap;    // scores are bent to softcap tanh(score / softcap); 0 leaves them
    float sharpness;  // 1 / temperature, which multiplies them then
};

// What scoring a chunk finds.
struct Scores {
    const float* shift;  // [tokens], subtracted from every score, or null
    // With a softcap a gradient may be made in the exponentials' place: (share e - smoothing weight) slope.
    const float* share;         // [tokens], or null for exponentials
    const float* smoothing;     // [tokens], likewise
    const float* class_weight;  // [vocabulary], or null where labels are not smoothed
    float* smooth;   // [tokens] the sum of the bent scores, each times its class's weight, or null
    float* picked;   // [tokens] the target's score, untouched where it lies elsewhere
    float* largest;  // [tokens] the largest score but the target's: with it, nothing of what follows is made
    float* others;   // [tokens] the sum of the exponentials, the target's apart
    float* drawn;    // [tokens up to 16, width up to 64] exponentials times weight, or null
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

// A thread's part of the vocabulary, and what it finds there.
struct Part {
    int64_t start, stop;
    std::unique_ptr<Space> others, of_tile, largest, smooth, own_drawn;
    float* drawn = nullptr;
};

// One walk of a thread over its part: scores, exponentials and what they draw from the weight.
template <class T>
class Scorer {
    const Chunk& chunk;
    const Scores& scores;
    const Part& part;
    ScoreWalk<T> walk;
    std::optional<Drawing<T>> drawing;
    int64_t tile = 0;
    std::vector<int64_t> hits;  // tokens whose target lies in the tile

    const T* weight() const { return static_cast<const T*>(chunk.weight); }

public:
    Scorer(const Chunk& chunk, const Scores& scores, const Part& part, const char* panels)
        : chunk(chunk), scores(scores), part(part), walk({weight(), chunk.bias, chunk.width}, panels, chunk.tokens) {
        if (part.drawn) drawing.emplace(weight(), chunk.tokens, chunk.width, part.drawn);
    }

    void run() {
        for (tile = part.start; tile < part.stop; tile += TILE<T>) {
            const int64_t rows = std::min(TILE<T>, part.stop - tile);
            hits.clear();
            for (int64_t i = 0; i < chunk.tokens; ++i)
                if (chunk.target[i] >= tile && chunk.target[i] < tile + rows) hits.push_back(i);
            walk.tile(tile, rows, *this);
            add_tile();
            if (drawing) drawing->tile(tile, rows);
        }
    }

    template <int V>
    void take(__m512 (&c)[ROWS][V], int64_t row, int64_t count, int64_t token) {
        if (chunk.softcap) {
            bend<V>(c, row, count, token);
        } else if (chunk.sharpness != 1.0f) {
            for (int r = 0; r < ROWS; ++r)
                for (int v = 0; v < V; ++v) c[r][v] = _mm512_mul_ps(c[r][v], constant(chunk.sharpness));
        }
        for (const int64_t i : hits) {
            const int64_t r = chunk.target[i] - row;
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
                exponentiate(row, count, at, c[0] + v, V);
            }
        }
    }

private:
    // A tile's sums begin with 0: added to one by one, the sum of a large vocabulary would lose digits.
    void add_tile() {
        for (int64_t i = 0; i < chunk.tokens; ++i) {
            part.others->floats()[i] += part.of_tile->floats()[i];
            part.of_tile->floats()[i] = 0.0f;
        }
    }

    // Six rows' scores of up to 64 tokens by the softcap, and what label smoothing asks of them.
    template <int V>
    [[gnu::always_inline]] void bend(__m512 (&c)[ROWS][V], int64_t row, int64_t count, int64_t token) {
        for (int v = 0; v < V; ++v) {
            float* place = part.smooth->floats() + token + LANES * v;
            __m512 smooth = _mm512_load_ps(place);
            for (int r = 0; r < ROWS; ++r) {
                const __m512 bent = hyperbolic_tangent(_mm512_mul_ps(c[r][v], constant(1.0f / chunk.softcap)));
                c[r][v] = _mm512_mul_ps(bent, constant(chunk.softcap * chunk.sharpness));
                if (scores.smooth && r < count)
                    smooth = _mm512_fmadd_ps(constant(scores.class_weight[row + r]), c[r][v], smooth);
            }
            _mm512_store_ps(place, smooth);
        }
    }

    // The softcap's slope where it has bent a score; 0 where the target's was taken out.
    __m512 slope(__m512 score) const {
        const __m512 t = _mm512_mul_ps(score, constant(1.0f / (chunk.softcap * chunk.sharpness)));
        return _mm512_max_ps(_mm512_setzero_ps(), _mm512_fnmadd_ps(t, t, constant(1.0f)));
    }

    // Six rows' exponentials of 16 tokens: summed, stored, and kept for the product that draws.
    [[gnu::always_inline]] void exponentiate(int64_t row, int64_t count, int64_t at, const __m512* c, int apart) {
        const __mmask16 lanes = lanes_below(chunk.tokens - at);
        const __m512 shift = scores.shift ? load(scores.shift + at, lanes) : _mm512_setzero_ps();
        float* place = part.of_tile->floats() + at;
        __m512 others = _mm512_load_ps(place), e[ROWS];
#pragma GCC unroll 6
        for (int r = 0; r < ROWS; ++r) {
            const __m512 value = exponential<T>(_mm512_sub_ps(c[r * apart], shift));
            e[r] = _mm512_maskz_mov_ps(r < count ? lanes : 0, value);
            others = _mm512_add_ps(others, e[r]);
            if (chunk.softcap) e[r] = _mm512_mul_ps(e[r], slope(c[r * apart]));
        }
        if (scores.share) {
            const __m512 share = load(scores.share + at, lanes), smoothing = load(scores.smoothing + at, lanes);
            for (int r = 0; r < count; ++r) {
                const __m512 of_class = _mm512_mul_ps(smoothing, constant(scores.class_weight[row + r]));
                const __m512 smoothed = _mm512_mul_ps(of_class, slope(c[r * apart]));
                e[r] = _mm512_maskz_sub_ps(lanes, _mm512_mul_ps(share, e[r]), smoothed);
            }
        }
        _mm512_store_ps(place, others);
        T* to = static_cast<T*>(chunk.exponentials) + row * chunk.stride + at;
#pragma GCC unroll 6
        for (int r = 0; r < ROWS; ++r)
            if (r < count) store(to + r * chunk.stride, e[r], lanes);
        if (drawing) drawing->write(row - tile, at, e);
    }
};

// One walk of a thread over its part: the gradients of the weight and of the bias.
template <class T, class G>
void gather_part(const Chunk& chunk, const Gradients& gradients, const char* panels, const std::vector<Hit>& hits,
                 int64_t start, int64_t stop) {
    const T* exponentials = static_cast<const T*>(chunk.exponentials);
    const WeightGradient<T, G> weight{static_cast<G*>(gradients.weight), chunk.tokens, chunk.width,
                                      gradients.first != 0, panels, static_cast<const T*>(chunk.hidden),
                                      gradients.corner};
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
        weight.add(left.start, block, rows, hit, next, [&] {
            for (int64_t i = 0; i < chunk.tokens * static_cast<int64_t>(sizeof(T)); i += 64)
                _mm_prefetch(reinterpret_cast<const char*>(exponentials + ahead * chunk.stride) + i, _MM_HINT_T1);
            ++ahead;
        });
        if (gradients.bias) {
            for (int64_t r = 0; r < rows; ++r) {
                const T* e = reinterpret_cast<const T*>(left.start + r * units * UNIT);
                __m512 sum = _mm512_setzero_ps();
                for (int64_t i = 0; i < chunk.tokens; i += LANES) {
                    const __mmask16 lanes = lanes_below(chunk.tokens - i);
                    sum = _mm512_fmadd_ps(load(e + i, lanes), load(gradients.share + i, lanes), sum);
                }
                gradients.bias[block + r] += _mm512_reduce_add_ps(sum);
            }
            for (const Hit* at = hit; at != next; ++at) gradients.bias[at->first] += gradients.corner[at->second];
        }
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
    for (const auto& [start, stop] : parts_of(chunk.vocabulary, chunk.threads, TILE<T>)) {
        const auto room = [&] { return std::make_unique<Space>(tokens * UNIT); };
        Part part{start, stop, room(), room(), room(), room(), nullptr};
        std::fill_n(part.largest->floats(), tokens, -INFINITY);
        if (scores.drawn && !scores.largest) {
            if (!parts.empty()) part.own_drawn = std::make_unique<Space>(drawn_size * UNIT);
            part.drawn = part.own_drawn ? part.own_drawn->floats() : scores.drawn;
        }
        parts.push_back(std::move(part));
    }
    in_threads(parts.size(), [&](int64_t i) { Scorer<T>(chunk, scores, parts[i], panels.start).run(); });
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
void gather_bfloat16_bfloat16(const Chunk* chunk, const Gradients* gradients) {
    gather<bfloat16, bfloat16>(*chunk, *gradients);
}
void gather_bfloat16_float32(const Chunk* chunk, const Gradients* gradients) {
    gather<bfloat16, float>(*chunk, *gradients);
}

}
