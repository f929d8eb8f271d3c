// Sixteen floats at a time: bfloat16 in memory, float32 in registers. AVX512_BF16.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

using bfloat = uint16_t;  // the bits of a bfloat16

constexpr int LANES = 16;
constexpr float LOG2_E = 1.44269504089f;

inline __m512 load_bfloat(const bfloat* from) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

inline void store_bfloat(bfloat* to, __m512 values) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), (__m256i)_mm512_cvtneps_pbh(values));
}

// 2^x for x <= 0, relative error about 2e-6: a polynomial of degree 5 on [-0.5, 0.5].
inline __m512 exp2_of_negative(__m512 x) {
  x = _mm512_max_ps(_mm512_set1_ps(-126.0f), x);  // in this order a NaN stays one
  const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 rest = _mm512_sub_ps(x, whole);
  __m512 power = _mm512_set1_ps(1.3333558146e-3f);
  power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(9.6181291076e-3f));
  power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(5.5504108665e-2f));
  power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(2.4022650696e-1f));
  power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(6.9314718056e-1f));
  power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(power, whole);
}

// The greatest magnitudes so far. As integers the bits order magnitudes and put NaN above infinity:
// a row with a NaN gets it as its scale, so that the answer fails instead of going on with zeros.
inline __m512i greater(__m512i greatest, __m512 x) {
  return _mm512_max_epi32(greatest, _mm512_castps_si512(_mm512_abs_ps(x)));
}

inline float magnitude(__m512i greatest) {
  const int32_t bits = _mm512_reduce_max_epi32(greatest);
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

// A row as unsigned bytes around 128, as the int8 matmul wants it, and its scale.
// The scale is a bfloat16 number, so that multiplying a bfloat16 by it rounds once only.
inline float quantize_row(const float* row, int width, float greatest, uint8_t* to) {
  const __m128bh rounded = _mm_cvtneps_pbh(_mm_set1_ps(greatest / 127.0f));
  uint32_t bits = static_cast<uint16_t>(_mm_extract_epi16((__m128i)rounded, 0)) << 16;
  float scale;
  __builtin_memcpy(&scale, &bits, sizeof scale);
  if (scale < 1e-30f) scale = 1e-30f;  // a row of zeros
  const __m512 inverse = _mm512_set1_ps(1.0f / scale);
  const __m512i zero = _mm512_set1_epi32(128), least = _mm512_set1_epi32(1);
  for (int i = 0; i < width; i += LANES) {
    __m512i value = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(row + i), inverse));
    value = _mm512_max_epi32(_mm512_add_epi32(value, zero), least);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), _mm512_cvtusepi32_epi8(value));
  }
  return scale;
}
