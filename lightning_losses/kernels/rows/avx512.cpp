// Distillation between two heads, for CPUs with AVX-512: both networks' scores and the sums over them; the sums of a
// divergence that has terms of its own; the gradients.
#include "../compiled/gradients.hpp"
#include "../compiled/pairs.hpp"

// A divergence, and what makes its gradient.
struct Divergence {
    int64_t kind;
    float a, b;
    const float* logsumexp[2];  // [2, tokens] of the softened scores, and what rounding to a float left of it
    float* values;              // [tokens]
    float* slopes;              // [tokens] their sum
};

struct Gradients {
    float slope_weight;      // what multiplies the gradient by the softened scores
    const float* share;      // [tokens] what a row's gradient weighs
    const float* of_target;  // [tokens] what multiplies the student's probabilities as they are, or null
    const float* whole;      // [2, tokens] their logsumexp, likewise
    const float* corner;     // [tokens] what is added at the target
    void* weight;            // [vocabulary, width], or null
    float* bias;             // [vocabulary], or null
    float* hidden;           // [tokens up to 16, width up to 64], to be added to, or null
    int64_t first;           // whether the weight's gradient is overwritten
};

namespace {

// Call `use` with the divergence; the numbers are those of the Python side.
template <class Use>
void with_divergence(int64_t kind, const Use& use) {
    switch (kind) {
        case 0: return use(KullbackLeibler{});
        case 1: return use(JensenShannon{});
        case 2: return use(SkewedForward{});
        case 3: return use(SkewedReverse{});
        case 4: return use(TotalVariation{});
        case 5: return use(AlphaBeta{});
    }
}

// The logsumexps of 16 tokens, in two parts: a likely class's logarithm is a small difference of large numbers.
struct Logsumexp {
    __m512 value, rest;

    Logsumexp(const float* from, int64_t tokens, int64_t at)
        : value(load(from + at, lanes_below(tokens - at))), rest(load(from + tokens + at, lanes_below(tokens - at))) {}
    __m512 below(__m512 score, float sharpness) const {
        return _mm512_sub_ps(_mm512_fmsub_ps(score, constant(sharpness), value), rest);
    }
};

struct Logsumexps {
    const Pair& pair;
    const int64_t at;
    const Logsumexp student, teacher;

    Logsumexps(const Pair& pair, const Divergence& divergence, int64_t at)
        : pair(pair), at(at), student(divergence.logsumexp[STUDENT], pair.tokens, at),
          teacher(divergence.logsumexp[TEACHER], pair.tokens, at) {}
    Point point(int64_t row) const {
        return {student.below(_mm512_load_ps(scores_at(pair, STUDENT, row, at)), pair.sharpness),
                teacher.below(_mm512_load_ps(scores_at(pair, TEACHER, row, at)), pair.sharpness)};
    }
};

template <class Kind>
void add_terms(const Pair& pair, const Divergence& divergence, const Part& part) {
    const Settings settings{constant(divergence.a), constant(divergence.b)};
    // A tile at a time, so that its scores' lines of memory are read whole.
    for (int64_t tile = part.start; tile < part.stop; tile += TILE_UNITS)
        for (int64_t at = 0; at < pair.tokens; at += LANES) {
            const Logsumexps logsumexps(pair, divergence, at);
            __m512 values = _mm512_setzero_ps(), slopes = _mm512_setzero_ps();
            for (int64_t row = tile; row < std::min(tile + TILE_UNITS, part.stop); ++row) {
                const Point point = logsumexps.point(row);
                values = _mm512_add_ps(values, Kind::term(point, settings));
                slopes = _mm512_add_ps(slopes, Kind::slope(point, settings));
            }
            float *const of_values = part.line(0, pair) + at, *const of_slopes = part.line(1, pair) + at;
            _mm512_store_ps(of_values, _mm512_add_ps(_mm512_load_ps(of_values), values));
            _mm512_store_ps(of_slopes, _mm512_add_ps(_mm512_load_ps(of_slopes), slopes));
        }
}

// A thread's walk over its part: the gradient by the student's scores, a tile at a time, and its products.
template <class T, class G>
class Gatherer {
    const Pair& pair;
    const Divergence& divergence;
    const Gradients& gradients;
    const std::vector<Hit>& hits;
    const WeightGradient<T, G> weight;
    std::optional<Drawing<T>> drawing;
    const int64_t units;
    Space left, of_bias;

public:
    Gatherer(const Pair& pair, const Divergence& divergence, const Gradients& gradients, const std::vector<Hit>& hits,
             const char* panels, float* drawn)
        : pair(pair), divergence(divergence), gradients(gradients), hits(hits),
          weight{static_cast<G*>(gradients.weight), pair.tokens, pair.networks[STUDENT].width, gradients.first != 0,
                 panels, nullptr, nullptr},
          units(units_of<T>(pair.tokens)), left(TILE<T> * units * UNIT), of_bias(TILE<T> * LANES * UNIT) {
        const Network& student = pair.networks[STUDENT];
        if (drawn) drawing.emplace(static_cast<const T*>(student.weight), pair.tokens, student.width, drawn);
    }

    void run(int64_t start, int64_t stop) {
        const Hit* hit = std::lower_bound(hits.data(), hits.data() + hits.size(), Hit(start, 0));
        for (int64_t tile = start; tile < stop; tile += TILE<T>) {
            const int64_t rows = std::min(TILE<T>, stop - tile);
            with_divergence(divergence.kind, [&](auto kind) { fill<decltype(kind)>(tile, rows, hit); });
            if (drawing) drawing->tile(tile, rows);
            int64_t ahead = tile + TILE<T>;  // the next scores to come, a row with each product
            for (int64_t block = 0; gradients.weight && block < rows; block += BLOCK)
                weight.add(left.start + block * units * UNIT, tile + block, std::min(BLOCK, rows - block), nullptr,
                           nullptr, [&] {
                               for (int64_t i = 0; i < pair.stride; i += LANES)
                                   for (int n : {STUDENT, TEACHER})
                                       _mm_prefetch(reinterpret_cast<const char*>(scores_at(pair, n, ahead, i)),
                                                    _MM_HINT_T1);
                               ++ahead;
                           });
            for (int64_t r = 0; gradients.bias && r < rows; ++r) {
                float* sum = of_bias.floats() + r * LANES;
                gradients.bias[tile + r] += _mm512_reduce_add_ps(_mm512_load_ps(sum));
                _mm512_store_ps(sum, _mm512_setzero_ps());
            }
        }
    }

private:
    template <class Kind>
    void fill(int64_t tile, int64_t rows, const Hit*& hit) {
        const Hit* const end = hits.data() + hits.size();
        for (int64_t r = 0; r < rows; r += ROWS) {
            const Hit* next = hit;
            while (next != end && next->first < tile + r + ROWS) ++next;
            for (int64_t at = 0; at < pair.tokens; at += LANES)
                fill_block<Kind>(tile, r, std::min(ROWS, rows - r), at, hit, next);
            hit = next;
        }
    }

    // Six rows' gradients of 16 tokens, as both products take them.
    template <class Kind>
    void fill_block(int64_t tile, int64_t row, int64_t count, int64_t at, const Hit* hit, const Hit* last) {
        const __mmask16 lanes = lanes_below(pair.tokens - at);
        const Settings settings{constant(divergence.a), constant(divergence.b)};
        const Logsumexps logsumexps(pair, divergence, at);
        const __m512 slopes = load(divergence.slopes + at, lanes), weight = constant(gradients.slope_weight);
        __m512 e[ROWS];
        for (int r = 0; r < ROWS; ++r) {
            // Beyond the last row a row that there is stands in.
            const Point point = logsumexps.point(tile + row + (r < count ? r : 0));
            e[r] = _mm512_mul_ps(weight, _mm512_fnmadd_ps(point.s, slopes, Kind::slope(point, settings)));
        }
        if (gradients.of_target) {
            const __m512 of_target = load(gradients.of_target + at, lanes);
            const Logsumexp whole(gradients.whole, pair.tokens, at);
            for (int r = 0; r < count; ++r) {
                const __m512 score = _mm512_load_ps(scores_at(pair, STUDENT, tile + row + r, at));
                e[r] = _mm512_fmadd_ps(of_target, exponential<float>(whole.below(score, 1.0f)), e[r]);
            }
            for (; hit != last; ++hit)
                for (int r = 0; r < ROWS; ++r) {
                    const bool here = hit->first == tile + row + r && hit->second >= at && hit->second < at + LANES;
                    const __mmask16 lane = here ? 1 << (hit->second - at) : 0;
                    e[r] = _mm512_mask_add_ps(e[r], lane, e[r], constant(gradients.corner[hit->second]));
                }
        }
        for (int r = 0; r < ROWS; ++r) e[r] = _mm512_maskz_mov_ps(r < count ? lanes : 0, e[r]);
        for (int r = 0; r < count; ++r) {
            store(reinterpret_cast<T*>(left.start + (row + r) * units * UNIT) + at, e[r], lanes);
            if (gradients.bias) {
                float* sum = of_bias.floats() + (row + r) * LANES;
                const __m512 share = load(gradients.share + at, lanes);
                _mm512_store_ps(sum, _mm512_fmadd_ps(share, e[r], _mm512_load_ps(sum)));
            }
        }
        if (drawing) drawing->write(row, at, e);
    }
};

template <class T, class G>
void gather(const Pair& pair, const Divergence& divergence, const Gradients& gradients) {
    const Network& student = pair.networks[STUDENT];
    const int64_t columns = rounded_up(student.width, COLUMNS);
    const Space panels(columns * units_of<T>(pair.tokens) * UNIT);
    pack(static_cast<const T*>(student.hidden), pair.tokens, student.width, student.width, gradients.share,
         panels.start);
    std::vector<Hit> hits;
    for (int64_t i = 0; gradients.of_target && i < pair.tokens; ++i) hits.emplace_back(pair.target[i], i);
    std::sort(hits.begin(), hits.end());
    const auto parts = parts_of(pair.vocabulary, pair.threads, TILE<T>);
    const int64_t drawn_size = gradients.hidden ? rounded_up(pair.tokens, LANES) * columns : 0;
    const Space drawn(parts.size() * drawn_size * UNIT);
    in_threads(parts.size(), [&](int64_t i) {
        float* const own = gradients.hidden ? drawn.floats() + i * drawn_size : nullptr;
        Gatherer<T, G>(pair, divergence, gradients, hits, panels.start, own).run(parts[i].first, parts[i].second);
    });
    for (size_t part = 0; part < parts.size(); ++part)
        for (int64_t i = 0; i < drawn_size; ++i) gradients.hidden[i] += drawn.floats()[part * drawn_size + i];
}

}  // namespace

extern "C" {

void score_float32(const Pair* pair, float* sums) { score<float>(*pair, sums); }
void score_bfloat16(const Pair* pair, float* sums) { score<bfloat16>(*pair, sums); }

void sum(const Pair* pair, float* sums) {
    const auto parts = parts_with(*pair, SUMS, TILE_UNITS);
    in_threads(parts.size(), [&](int64_t i) {
        for (int64_t tile = parts[i].start; tile < parts[i].stop; tile += TILE_UNITS)
            add_sums(*pair, parts[i], tile, std::min(tile + TILE_UNITS, parts[i].stop));
    });
    for (int n = 0; n < SUMS; ++n) add_lines(parts, *pair, n, sums + n * pair->stride);
}

void terms(const Pair* pair, const Divergence* divergence) {
    const auto parts = parts_with(*pair, 2, TILE_UNITS);
    with_divergence(divergence->kind, [&](auto kind) {
        if constexpr (requires { &decltype(kind)::term; })
            in_threads(parts.size(), [&](int64_t i) { add_terms<decltype(kind)>(*pair, *divergence, parts[i]); });
    });
    add_lines(parts, *pair, 0, divergence->values);
    add_lines(parts, *pair, 1, divergence->slopes);
}

void gather_float32_float32(const Pair* pair, const Divergence* divergence, const Gradients* gradients) {
    gather<float, float>(*pair, *divergence, *gradients);
}
void gather_bfloat16_bfloat16(const Pair* pair, const Divergence* divergence, const Gradients* gradients) {
    gather<bfloat16, bfloat16>(*pair, *divergence, *gradients);
}
void gather_bfloat16_float32(const Pair* pair, const Divergence* divergence, const Gradients* gradients) {
    gather<bfloat16, float>(*pair, *divergence, *gradients);
}

}
