// Causal attention over the paged cache, without padding and without copying keys or values.
//
// A block holds 16 tokens of one key head. Its keys lie as (d / 2, 16, 2), so that one vector is
// the same pair of elements of 16 keys; its values as (8, d, 2), so that one vector is 16 elements
// of the same pair of keys: what the bfloat16 dot product of the CPU adds up in one instruction.
//
// A tile is up to 8 query rows that use the same key head: the heads of its group, then the next
// token's. A row's result depends on its own keys alone, not on the tile or the batch.

#include <cmath>
#include <cstring>
#include <vector>

#include "vectors.h"

namespace {

constexpr int BLOCK = 16;    // tokens of a cache block
constexpr int TILE = 8;      // query rows that share one pass over the keys
constexpr int WINDOW = 128;  // keys between two corrections of the running softmax
constexpr int PAIRS = WINDOW / 2;

struct Span {  // one sequence's rows in this step
  int32_t start, length, context, blocks;  // blocks: where its block table starts
};

struct Tile {
  int32_t span, head, first;  // first: row within the span, counted in query heads of the group
};

struct Cache {
  const bfloat *keys, *values;
  int heads;
};

inline __m512bh pair(uint32_t bits) { return (__m512bh)_mm512_set1_epi32(bits); }

// Scores of ROWS queries against the 16 keys of one block.
template <int D, int ROWS>
inline void score_block(const uint32_t* queries, const bfloat* keys, float* scores) {
  __m512 sums[ROWS];
  for (int r = 0; r < ROWS; r++) sums[r] = _mm512_setzero_ps();
  for (int p = 0; p < D / 2; p++) {
    const __m512bh key = (__m512bh)_mm512_loadu_si512(keys + p * BLOCK * 2);
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
      sums[r] = _mm512_dpbf16_ps(sums[r], key, pair(queries[r * (D / 2) + p]));
  }
  for (int r = 0; r < ROWS; r++) _mm512_storeu_ps(scores + r * WINDOW, sums[r]);
}

// output[r] += probabilities[r] * values, for the blocks of one window.
template <int D, int ROWS>
inline void add_values(const uint32_t* probabilities, const bfloat* const* values, int blocks,
                       float* output) {
  constexpr int STEP = ROWS < 4 ? ROWS : 4;  // 4 rows by 64 elements fill half the registers
  for (int row = 0; row < ROWS; row += STEP) {
    for (int d = 0; d < D; d += 64) {
      __m512 sums[STEP][4];
      for (int r = 0; r < STEP; r++)
        for (int c = 0; c < 4; c++)
          sums[r][c] = _mm512_loadu_ps(output + (row + r) * D + d + c * LANES);
      for (int b = 0; b < blocks; b++) {
        for (int p = 0; p < BLOCK / 2; p++) {
          const bfloat* at = values[b] + p * D * 2 + d * 2;
          __m512bh value[4];
          for (int c = 0; c < 4; c++)
            value[c] = (__m512bh)_mm512_loadu_si512(at + c * LANES * 2);
#pragma GCC unroll 4
          for (int r = 0; r < STEP; r++) {
            const __m512bh weight = pair(probabilities[(row + r) * PAIRS + b * (BLOCK / 2) + p]);
#pragma GCC unroll 4
            for (int c = 0; c < 4; c++) sums[r][c] = _mm512_dpbf16_ps(sums[r][c], value[c], weight);
          }
        }
      }
      for (int r = 0; r < STEP; r++)
        for (int c = 0; c < 4; c++)
          _mm512_storeu_ps(output + (row + r) * D + d + c * LANES, sums[r][c]);
    }
  }
}

struct RunningSoftmax {
  float greatest = -INFINITY, sum = 0.0f;

  // Turns `blocks` blocks of scores into probabilities, of which the first `visible` count.
  // Returns the factor for what was added up before.
  float advance(float* scores, int blocks, int visible, float scale, bfloat* probabilities) {
    const __m512 hidden = _mm512_set1_ps(-INFINITY), factor = _mm512_set1_ps(scale);
    __m512 top = hidden;
    for (int b = 0; b < blocks; b++) {
      const __m512 raw = _mm512_loadu_ps(scores + b * BLOCK);
      const __m512 scaled = _mm512_mask_mul_ps(hidden, lanes(visible - b * BLOCK), raw, factor);
      _mm512_storeu_ps(scores + b * BLOCK, scaled);
      top = _mm512_max_ps(top, scaled);
    }
    const float before = greatest;
    greatest = std::fmax(greatest, _mm512_reduce_max_ps(top));
    const __m512 reference = _mm512_set1_ps(greatest);
    __m512 added = _mm512_setzero_ps();
    for (int b = 0; b < blocks; b++) {
      const __m512 x = _mm512_sub_ps(_mm512_loadu_ps(scores + b * BLOCK), reference);
      const __m512 e = _mm512_maskz_mov_ps(lanes(visible - b * BLOCK), exp2_of_negative(x));
      added = _mm512_add_ps(added, e);
      store_bfloat(probabilities + b * BLOCK, e);
    }
    const __m512 shift = _mm512_set1_ps(before - greatest);
    const float correction = before == -INFINITY ? 0.0f : _mm512_cvtss_f32(exp2_of_negative(shift));
    sum = sum * correction + _mm512_reduce_add_ps(added);
    return correction;
  }

  static __mmask16 lanes(int visible) {
    if (visible >= BLOCK) return 0xffff;
    return visible <= 0 ? 0 : static_cast<__mmask16>((1u << visible) - 1);
  }
};

template <int D, int ROWS>
void attend_tile(const bfloat* const* queries, bfloat* const* outputs, const int* contexts,
                 int rows, const Cache& cache, const int32_t* table, int head, float scale) {
  alignas(64) uint32_t query[ROWS * D / 2];
  alignas(64) float scores[ROWS * WINDOW];
  alignas(64) uint32_t probabilities[ROWS * PAIRS];
  alignas(64) float output[ROWS * D] = {};
  RunningSoftmax softmax[ROWS];
  for (int r = 0; r < ROWS; r++) std::memcpy(query + r * D / 2, queries[r], D * sizeof(bfloat));
  const int longest = contexts[rows - 1];
  for (int window = 0; window < longest; window += WINDOW) {
    const int keys = longest - window < WINDOW ? longest - window : WINDOW;
    const int blocks = (keys + BLOCK - 1) / BLOCK;
    const bfloat* values[WINDOW / BLOCK];
    for (int b = 0; b < blocks; b++) {
      const size_t block = table[window / BLOCK + b];
      const size_t at = (block * cache.heads + head) * BLOCK * D;
      score_block<D, ROWS>(query, cache.keys + at, scores + b * BLOCK);
      values[b] = cache.values + at;
    }
    for (int r = 0; r < ROWS; r++) {
      bfloat* to = reinterpret_cast<bfloat*>(probabilities + r * PAIRS);
      const int visible = contexts[r] - window;
      if (visible <= 0) {  // all keys of this window come after the row
        std::memset(to, 0, WINDOW * sizeof(bfloat));
        continue;
      }
      const float correction =
          softmax[r].advance(scores + r * WINDOW, blocks, visible, scale, to);
      if (window == 0 || correction == 1.0f) continue;
      const __m512 factor = _mm512_set1_ps(correction);
      for (int d = 0; d < D; d += LANES) {
        float* at = output + r * D + d;
        _mm512_storeu_ps(at, _mm512_mul_ps(_mm512_loadu_ps(at), factor));
      }
    }
    add_values<D, ROWS>(probabilities, values, blocks, output);
  }
  for (int r = 0; r < rows; r++) {
    const __m512 inverse = _mm512_set1_ps(1.0f / softmax[r].sum);
    for (int d = 0; d < D; d += LANES)
      store_bfloat(outputs[r] + d, _mm512_mul_ps(_mm512_loadu_ps(output + r * D + d), inverse));
  }
}

template <int D>
void attend(const bfloat* queries, bfloat* outputs, const Cache& cache, const Span* spans,
            int num_spans, const int32_t* tables, int heads, float scale) {
  const int group = heads / cache.heads;
  std::vector<Tile> tiles;
  for (int s = 0; s < num_spans; s++)
    for (int head = 0; head < cache.heads; head++)
      for (int first = 0; first < spans[s].length * group; first += TILE)
        tiles.push_back({s, head, first});
#pragma omp parallel for schedule(dynamic, 1)
  for (size_t i = 0; i < tiles.size(); i++) {
    const Tile& tile = tiles[i];
    const Span& span = spans[tile.span];
    const int left = span.length * group - tile.first, rows = left < TILE ? left : TILE;
    const bfloat* from[TILE];
    bfloat* to[TILE];
    int contexts[TILE];
    for (int r = 0; r < TILE; r++) {  // a tile that is not full repeats its last row
      const int row = tile.first + (r < rows ? r : rows - 1), token = row / group;
      const size_t head = tile.head * group + row % group;
      const size_t at = (static_cast<size_t>(span.start + token) * heads + head) * D;
      from[r] = queries + at;
      to[r] = outputs + at;
      contexts[r] = span.context - span.length + token + 1;
    }
    const int32_t* table = tables + span.blocks;
    if (rows == 1)
      attend_tile<D, 1>(from, to, contexts, rows, cache, table, tile.head, scale);
    else if (rows <= 4)
      attend_tile<D, 4>(from, to, contexts, rows, cache, table, tile.head, scale);
    else
      attend_tile<D, TILE>(from, to, contexts, rows, cache, table, tile.head, scale);
  }
}

}  // namespace

// queries, outputs (T, heads, d); keys, values (blocks, key heads, 16 * d); spans (n, 4);
// tables: the block tables one after the other. d is 64 or 128.
extern "C" void nightshift_attend(const bfloat* queries, bfloat* outputs, const bfloat* keys,
                                  const bfloat* values, const int32_t* spans, int num_spans,
                                  const int32_t* tables, int heads, int kv_heads, int head_dim) {
  const Cache cache{keys, values, kv_heads};
  const Span* typed = reinterpret_cast<const Span*>(spans);
  const float scale = LOG2_E / std::sqrt(static_cast<float>(head_dim));  // exp(x) = 2^(x log2 e)
  if (head_dim == 64)
    attend<64>(queries, outputs, cache, typed, num_spans, tables, heads, scale);
  else
    attend<128>(queries, outputs, cache, typed, num_spans, tables, heads, scale);
}
