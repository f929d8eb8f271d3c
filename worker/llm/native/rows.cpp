// What happens to every row between two matmuls, in one pass each: the sum with the residual, the
// norm, the gate, the rotation, the write to the cache, the quantization for the next matmul.
//
// A matmul's result comes with one factor per row that is still to be applied (null: none).

#include <cmath>
#include <cstring>
#include <memory>

#include "vectors.h"

namespace {

constexpr int BLOCK = 16;  // tokens of a cache block, see attention.cpp

struct Output {  // where a row goes: as bytes with a scale, or as it is
  uint8_t* bytes;
  float* scales;
  bfloat* plain;

  void write(size_t row, int width, const float* values, float greatest) const {
    if (plain == nullptr) {
      scales[row] = quantize_row(values, width, greatest, bytes + row * width);
      return;
    }
    for (int i = 0; i < width; i += LANES)
      store_bfloat(plain + row * width + i, _mm512_loadu_ps(values + i));
  }
};

inline __m512 factor_of(const float* factors, size_t row) {
  return _mm512_set1_ps(factors == nullptr ? 1.0f : factors[row]);
}

inline __m512 silu(__m512 x) {
  const __m512 e = exp2_of_negative(_mm512_mul_ps(_mm512_abs_ps(x), _mm512_set1_ps(-LOG2_E)));
  const __m512 one = _mm512_set1_ps(1.0f);
  const __mmask16 negative = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LT_OQ);
  const __m512 above = _mm512_mask_mov_ps(one, negative, e);  // e^-|x| or 1: never overflows
  return _mm512_mul_ps(x, _mm512_div_ps(above, _mm512_add_ps(one, e)));
}

inline void rotate(const bfloat* from, bfloat* to, const float* cos, const float* sin, int half,
                   __m512 factor) {
  for (int i = 0; i < half; i += LANES) {
    const __m512 first = _mm512_mul_ps(load_bfloat(from + i), factor);
    const __m512 second = _mm512_mul_ps(load_bfloat(from + half + i), factor);
    const __m512 c = _mm512_loadu_ps(cos + i), s = _mm512_loadu_ps(sin + i);
    store_bfloat(to + i, _mm512_fmsub_ps(first, c, _mm512_mul_ps(second, s)));
    store_bfloat(to + half + i, _mm512_fmadd_ps(second, c, _mm512_mul_ps(first, s)));
  }
}

// What an earlier owner left in a block must not meet a probability of zero as a NaN. All blocks
// are cleared before any value is written: two threads may share the tokens of one block.
inline void clear_new_blocks(const int32_t* slots, bfloat* values, int rows, size_t width) {
#pragma omp parallel for schedule(static)
  for (int t = 0; t < rows; t++)
    if (slots[t] % BLOCK == 0)
      std::memset(values + slots[t] / BLOCK * width, 0, width * sizeof(bfloat));
}

}  // namespace

extern "C" {

// residual (T, width) += delta; output = norm(residual) * weight. delta may be null.
void nightshift_add_norm(bfloat* residual, const bfloat* delta, const float* delta_factors,
                         const bfloat* weight, float epsilon, uint8_t* bytes, float* scales,
                         bfloat* plain, int rows, int width) {
  const Output output{bytes, scales, plain};
#pragma omp parallel
  {
    const std::unique_ptr<float[]> buffer(new float[width]);
#pragma omp for schedule(static)
    for (int t = 0; t < rows; t++) {
      bfloat* row = residual + static_cast<size_t>(t) * width;
      const __m512 factor = factor_of(delta_factors, t);
      __m512 squares = _mm512_setzero_ps();
      for (int i = 0; i < width; i += LANES) {
        __m512 x = load_bfloat(row + i);
        if (delta != nullptr) {
          x = _mm512_fmadd_ps(load_bfloat(delta + static_cast<size_t>(t) * width + i), factor, x);
          store_bfloat(row + i, x);
          x = load_bfloat(row + i);  // the norm is of what is kept
        }
        _mm512_storeu_ps(buffer.get() + i, x);
        squares = _mm512_fmadd_ps(x, x, squares);
      }
      const float mean = _mm512_reduce_add_ps(squares) / static_cast<float>(width);
      const __m512 inverse = _mm512_set1_ps(1.0f / std::sqrt(mean + epsilon));
      __m512i greatest = _mm512_setzero_si512();
      for (int i = 0; i < width; i += LANES) {
        __m512 x = _mm512_mul_ps(_mm512_loadu_ps(buffer.get() + i), inverse);
        x = _mm512_mul_ps(x, load_bfloat(weight + i));
        _mm512_storeu_ps(buffer.get() + i, x);
        greatest = greater(greatest, x);
      }
      output.write(t, width, buffer.get(), magnitude(greatest));
    }
  }
}

// output (T, width) = silu(gate) * up, of gate_up (T, 2 * width).
void nightshift_gate(const bfloat* gate_up, const float* factors, uint8_t* bytes, float* scales,
                     bfloat* plain, int rows, int width) {
  const Output output{bytes, scales, plain};
#pragma omp parallel
  {
    const std::unique_ptr<float[]> buffer(new float[width]);
#pragma omp for schedule(static)
    for (int t = 0; t < rows; t++) {
      const bfloat* gate = gate_up + static_cast<size_t>(t) * 2 * width;
      const __m512 factor = factor_of(factors, t);
      __m512i greatest = _mm512_setzero_si512();
      for (int i = 0; i < width; i += LANES) {
        const __m512 up = _mm512_mul_ps(load_bfloat(gate + width + i), factor);
        const __m512 x = _mm512_mul_ps(silu(_mm512_mul_ps(load_bfloat(gate + i), factor)), up);
        _mm512_storeu_ps(buffer.get() + i, x);
        greatest = greater(greatest, x);
      }
      output.write(t, width, buffer.get(), magnitude(greatest));
    }
  }
}

// rows (T, width) as bytes and scales.
void nightshift_quantize(const bfloat* from, uint8_t* bytes, float* scales, int rows, int width) {
#pragma omp parallel
  {
    const std::unique_ptr<float[]> buffer(new float[width]);
#pragma omp for schedule(static)
    for (int t = 0; t < rows; t++) {
      const bfloat* row = from + static_cast<size_t>(t) * width;
      __m512i greatest = _mm512_setzero_si512();
      for (int i = 0; i < width; i += LANES) {
        const __m512 x = load_bfloat(row + i);
        _mm512_storeu_ps(buffer.get() + i, x);
        greatest = greater(greatest, x);
      }
      scales[t] = quantize_row(buffer.get(), width, magnitude(greatest),
                               bytes + static_cast<size_t>(t) * width);
    }
  }
}

// qkv (T, heads + 2 * kv_heads, d): rotated queries (T, heads, d) come out, rotated keys and the
// values go to the cache. cos, sin (T, d / 2); slots (T): block * 16 + place in the block.
void nightshift_rotate_and_cache(const bfloat* qkv, const float* factors, const float* cos,
                                 const float* sin, const int32_t* slots, bfloat* queries,
                                 bfloat* keys, bfloat* values, int rows, int heads, int kv_heads,
                                 int head_dim) {
  clear_new_blocks(slots, values, rows, kv_heads * BLOCK * head_dim);
  const int half = head_dim / 2;
#pragma omp parallel for schedule(static)
  for (int t = 0; t < rows; t++) {
    const size_t token = t;
    const bfloat* row = qkv + token * (heads + 2 * kv_heads) * head_dim;
    const float *c = cos + token * half, *s = sin + token * half;
    const __m512 factor = factor_of(factors, token);
    const size_t block = slots[t] / BLOCK, place = slots[t] % BLOCK;
    alignas(64) bfloat moved[128];
    for (int h = 0; h < heads; h++)
      rotate(row + h * head_dim, queries + (token * heads + h) * head_dim, c, s, half, factor);
    for (int h = 0; h < kv_heads; h++) {
      const size_t at = (block * kv_heads + h) * BLOCK * head_dim;
      rotate(row + (heads + h) * head_dim, moved, c, s, half, factor);
      for (int p = 0; p < half; p++)
        std::memcpy(keys + at + (p * BLOCK + place) * 2, moved + 2 * p, 2 * sizeof(bfloat));
      const bfloat* value = row + (heads + kv_heads + h) * head_dim;
      for (int d = 0; d < head_dim; d += LANES)
        store_bfloat(moved + d, _mm512_mul_ps(load_bfloat(value + d), factor));
      bfloat* to = values + at + (place / 2) * head_dim * 2 + place % 2;
      for (int d = 0; d < head_dim; d++) to[2 * d] = moved[d];
    }
  }
}

}  // extern "C"
