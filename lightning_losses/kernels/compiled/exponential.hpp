// exp, log and tanh of sixteen numbers.
#pragma once

#include "products.hpp"

namespace {

constexpr int NEAREST = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

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

// log(x) of a positive number that is neither denormal nor infinite, of relative error 1e-7: the polynomial is Cephes'.
inline __m512 logarithm(__m512 x) {
    // x = 2^n (1 + f) with 1 + f between the roots of 1/2 and of 2.
    const __m512 above = _mm512_getmant_ps(x, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_src);
    const __mmask16 large = _mm512_cmp_ps_mask(above, constant(1.41421356f), _CMP_GT_OQ);
    const __m512 f = _mm512_sub_ps(_mm512_mask_mul_ps(above, large, above, constant(0.5f)), constant(1.0f));
    const __m512 exponent = _mm512_getexp_ps(x), n = _mm512_mask_add_ps(exponent, large, exponent, constant(1.0f));
    __m512 p = constant(7.0376836292e-2f);
    p = _mm512_fmadd_ps(p, f, constant(-1.1514610310e-1f));
    p = _mm512_fmadd_ps(p, f, constant(1.1676998740e-1f));
    p = _mm512_fmadd_ps(p, f, constant(-1.2420140846e-1f));
    p = _mm512_fmadd_ps(p, f, constant(1.4249322787e-1f));
    p = _mm512_fmadd_ps(p, f, constant(-1.6668057665e-1f));
    p = _mm512_fmadd_ps(p, f, constant(2.0000714765e-1f));
    p = _mm512_fmadd_ps(p, f, constant(-2.4999993993e-1f));
    p = _mm512_fmadd_ps(p, f, constant(3.3333331174e-1f));
    const __m512 square = _mm512_mul_ps(f, f);
    p = _mm512_mul_ps(_mm512_mul_ps(p, f), square);
    p = _mm512_fmadd_ps(n, constant(-2.12194440e-4f), p);
    p = _mm512_fnmadd_ps(constant(0.5f), square, p);
    return _mm512_fmadd_ps(n, constant(0.693359375f), _mm512_add_ps(f, p));
}

// tanh(x), of relative error 3e-7: -E / (2 + E) with E = exp(-2 |x|) - 1, whose digits do not cancel where x is small.
inline __m512 hyperbolic_tangent(__m512 x) {
    const auto [n, p, f] = power(_mm512_mul_ps(constant(-2.0f), _mm512_abs_ps(x)));
    const __m512 scale = _mm512_scalef_ps(constant(1.0f), n);
    const __m512 E = _mm512_fmadd_ps(_mm512_mul_ps(scale, p), f, _mm512_sub_ps(scale, constant(1.0f)));
    const __m512 size = _mm512_div_ps(E, _mm512_sub_ps(constant(-2.0f), E));
    return _mm512_or_ps(size, _mm512_and_ps(x, constant(-0.0f)));
}

}  // namespace
