// Divergences `sum_k phi(s_k, t_k)` of two softmaxes, each by its slope `s dphi/ds`, of which the gradient by the
// softened scores is made, and by phi, unless it is a KL divergence, whose value is known by then.
#pragma once

#include "exponential.hpp"

namespace {

constexpr float ABSENT = -1e30f;  // the logarithm of no probability
constexpr float ZERO = -100.0f;   // what it counts as where it would make a value infinite: LOG_OF_ZERO
constexpr float TINY = 1e-37f;    // the smallest probability that a logarithm is taken of

// Where a number is more than that of a masked class, or none.
inline __mmask16 present(__m512 value) { return _mm512_cmp_ps_mask(value, constant(ABSENT), _CMP_NLE_UQ); }

// A class's probabilities and their logarithms.
struct Point {
    __m512 s, t, log_s, log_t;

    Point(__m512 log_s, __m512 log_t)
        : log_s(_mm512_max_ps(constant(ABSENT), log_s)), log_t(_mm512_max_ps(constant(ABSENT), log_t)) {
        s = exponential<float>(this->log_s);
        t = exponential<float>(this->log_t);
    }
};

// The settings, in every lane.
struct Settings {
    __m512 a, b;
};

inline __m512 mixture(__m512 p, __m512 q, __m512 weight) {
    return _mm512_max_ps(constant(TINY), _mm512_fmadd_ps(weight, _mm512_sub_ps(p, q), q));
}
inline __m512 but(__m512 weight) { return _mm512_sub_ps(constant(1.0f), weight); }

// a KL(t || s) + b KL(s || t)
struct KullbackLeibler {
    static __m512 slope(const Point& x, const Settings& by) {
        const __m512 log_t = _mm512_mask_mov_ps(constant(ZERO), present(x.log_t), x.log_t);
        const __m512 gain = _mm512_add_ps(_mm512_sub_ps(x.log_s, log_t), constant(1.0f));
        const __m512 value = _mm512_fmsub_ps(_mm512_mul_ps(by.b, x.s), gain, _mm512_mul_ps(by.a, x.t));
        return _mm512_maskz_mov_ps(present(x.log_s), value);  // elsewhere the student's logarithm is a constant
    }
};

// a KL(t || m) + (1 - a) KL(s || m) with m = a t + (1 - a) s
struct JensenShannon {
    static __m512 slope(const Point& x, const Settings& by) {
        const __m512 log_m = logarithm(mixture(x.t, x.s, by.a));
        return _mm512_mul_ps(_mm512_mul_ps(but(by.a), x.s), _mm512_sub_ps(x.log_s, log_m));
    }
    static __m512 term(const Point& x, const Settings& by) {
        const __m512 log_m = logarithm(mixture(x.t, x.s, by.a));
        const __m512 of_teacher = _mm512_mul_ps(_mm512_mul_ps(by.a, x.t), _mm512_sub_ps(x.log_t, log_m));
        return _mm512_fmadd_ps(_mm512_mul_ps(but(by.a), x.s), _mm512_sub_ps(x.log_s, log_m), of_teacher);
    }
};

// KL(t || m) with m = a t + (1 - a) s
struct SkewedForward {
    static __m512 slope(const Point& x, const Settings& by) {
        const __m512 share = _mm512_div_ps(x.t, mixture(x.t, x.s, by.a));
        return _mm512_mul_ps(_mm512_sub_ps(by.a, constant(1.0f)), _mm512_mul_ps(x.s, share));
    }
    static __m512 term(const Point& x, const Settings& by) {
        return _mm512_mul_ps(x.t, _mm512_sub_ps(x.log_t, logarithm(mixture(x.t, x.s, by.a))));
    }
};

// KL(s || m) with m = a s + (1 - a) t
struct SkewedReverse {
    static __m512 slope(const Point& x, const Settings& by) {
        const __m512 m = mixture(x.s, x.t, by.a), gain = _mm512_sub_ps(x.log_s, logarithm(m));
        const __m512 rest = _mm512_fnmadd_ps(by.a, _mm512_div_ps(x.s, m), constant(1.0f));
        return _mm512_mul_ps(x.s, _mm512_add_ps(gain, rest));
    }
    static __m512 term(const Point& x, const Settings& by) {
        return _mm512_mul_ps(x.s, _mm512_sub_ps(x.log_s, logarithm(mixture(x.s, x.t, by.a))));
    }
};

// sum_k |t_k - s_k| / 2
struct TotalVariation {
    static __m512 slope(const Point& x, const Settings&) {
        const __m512 half = _mm512_mul_ps(constant(0.5f), x.s);
        const __m512 above = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x.s, x.t, _CMP_GT_OQ), half);
        return _mm512_mask_sub_ps(above, _mm512_cmp_ps_mask(x.s, x.t, _CMP_LT_OQ), _mm512_setzero_ps(), half);
    }
    static __m512 term(const Point& x, const Settings&) {
        return _mm512_mul_ps(constant(0.5f), _mm512_abs_ps(_mm512_sub_ps(x.t, x.s)));
    }
};

// -sum_k (t_k^a s_k^b - a / (a + b) t_k^(a + b) - b / (a + b) s_k^(a + b)) / (a b)
struct AlphaBeta {
    static __m512 product(const Point& x, const Settings& by) {
        return exponential<float>(_mm512_fmadd_ps(by.a, x.log_t, _mm512_mul_ps(by.b, x.log_s)));
    }
    static __m512 power_of(__m512 log, const Settings& by) {
        return exponential<float>(_mm512_mul_ps(_mm512_add_ps(by.a, by.b), log));
    }
    static __m512 slope(const Point& x, const Settings& by) {
        return _mm512_div_ps(_mm512_sub_ps(power_of(x.log_s, by), product(x, by)), by.a);
    }
    static __m512 term(const Point& x, const Settings& by) {
        const __m512 of_student = _mm512_mul_ps(by.b, power_of(x.log_s, by));
        const __m512 powers = _mm512_fmadd_ps(by.a, power_of(x.log_t, by), of_student);
        const __m512 value = _mm512_sub_ps(_mm512_div_ps(powers, _mm512_add_ps(by.a, by.b)), product(x, by));
        return _mm512_div_ps(value, _mm512_mul_ps(by.a, by.b));
    }
};

}  // namespace
