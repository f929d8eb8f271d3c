// y = x Wᵀ of quantized rows and int8 or int4 weights: the exact integer sums of VNNI.
//
// The weights are the unsigned operand and four activations at a time the signed, broadcast one.
// So the nibbles of int4 weights are multiplied as they lie in memory, without a pass that unpacks
// them; their zero points are taken off by starting a sum at -zero * (sum of the activations).
//
// A panel is 32 outputs: for every 4 inputs two vectors of int8, for every 8 inputs two vectors of
// int4 (first four inputs in the low nibbles). A tile is up to 12 rows: its 24 sums stay in
// registers while one panel streams by. A row's result depends on nothing but the row.

#include <algorithm>
#include <cstring>
#include <vector>

#include "vectors.h"

namespace {

constexpr int VECTORS = 2;
constexpr int PANEL = VECTORS * LANES;
constexpr int TILE = 12;
constexpr int QUAD = 4;                    // inputs of one lane of a dot product
constexpr int INT8_ZERO = 128, INT4_ZERO = 8;
constexpr size_t BLOCK_BYTES = 512 << 10;  // rows that share a walk over the panels: half an L2
constexpr int AHEAD_BYTES = 8192;          // of weights: 5 to 12 % at 60 rows, more with fewer

// With the intrinsic GCC 12 moves sums from register to register: half the speed.
inline void dot(__m512i& sum, __m512i weights, __m512i activations) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(weights), "v"(activations));
}

// The two vectors at `weights`; it may lie beyond the end.
inline void prefetch(const uint8_t* weights) {
  _mm_prefetch(reinterpret_cast<const char*>(weights), _MM_HINT_T0);
  _mm_prefetch(reinterpret_cast<const char*>(weights) + 64, _MM_HINT_T0);
}

struct Rows {  // signed activations, tile by tile as (inputs / 4, rows of the tile, 4)
  int count, quads, groups;
  std::vector<int32_t> packed, sums;  // sums (count, groups): of the activations of a group
  int tiles() const { return (count + TILE - 1) / TILE; }
  int start(int tile) const {  // tiles are of nearly equal size
    return static_cast<int>(static_cast<int64_t>(count) * tile / tiles());
  }
};

template <int ROWS>
using Sums = __m512i[ROWS][VECTORS];

template <int ROWS>
inline void start_sums(Sums<ROWS>& sums, const int32_t* row_sums, int stride, int zero) {
#pragma GCC unroll 12
  for (int r = 0; r < ROWS; r++)
    for (int v = 0; v < VECTORS; v++) sums[r][v] = _mm512_set1_epi32(-zero * row_sums[r * stride]);
}

// The same where each of a panel's outputs has a zero of its own.
template <int ROWS>
inline void start_sums(Sums<ROWS>& sums, const int32_t* row_sums, int stride,
                       const uint8_t* zeros) {
  for (int v = 0; v < VECTORS; v++) {
    const __m128i narrow = _mm_loadu_si128(reinterpret_cast<const __m128i*>(zeros + v * LANES));
    const __m512i zero = _mm512_cvtepu8_epi32(narrow);
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; r++)
      sums[r][v] = _mm512_mullo_epi32(zero, _mm512_set1_epi32(-row_sums[r * stride]));
  }
}

template <int ROWS>
inline void add_quad(Sums<ROWS>& sums, const __m512i* weights, const int32_t* activations) {
#pragma GCC unroll 12
  for (int r = 0; r < ROWS; r++) {
    const __m512i quad = _mm512_set1_epi32(activations[r]);
#pragma GCC unroll 2
    for (int v = 0; v < VECTORS; v++) dot(sums[r][v], weights[v], quad);
  }
}

struct Int8Weights {
  const uint8_t* panels;  // (N' / 32, K / 4, 32, 4), weight + 128
  const float* scales;    // (N')

  // output (ROWS, 32) = the tile's sums times the weights' scales.
  template <int ROWS>
  void multiply(const Rows& rows, int first, int panel, float* output) const {
    const uint8_t* weights = panels + static_cast<size_t>(panel) * PANEL * QUAD * rows.quads;
    const int32_t* activations = rows.packed.data() + static_cast<size_t>(first) * rows.quads;
    Sums<ROWS> sums;
    start_sums<ROWS>(sums, rows.sums.data() + first, 1, INT8_ZERO);
    for (int q = 0; q < rows.quads; q++, weights += PANEL * QUAD, activations += ROWS) {
      prefetch(weights + AHEAD_BYTES);
      const __m512i pair[VECTORS] = {_mm512_loadu_si512(weights), _mm512_loadu_si512(weights + 64)};
      add_quad<ROWS>(sums, pair, activations);
    }
    for (int v = 0; v < VECTORS; v++) {
      const __m512 scale = _mm512_loadu_ps(scales + panel * PANEL + v * LANES);
#pragma GCC unroll 12
      for (int r = 0; r < ROWS; r++)
        _mm512_storeu_ps(output + r * PANEL + v * LANES,
                         _mm512_mul_ps(_mm512_cvtepi32_ps(sums[r][v]), scale));
    }
  }
};

struct Int4Weights {
  const uint8_t* panels;  // (N' / 32, K' / 8, 32, 4), two nibbles of weight + zero each
  const bfloat* scales;   // (K' / group, N')
  const uint8_t* zeros;   // the same, null where all are 8
  int outputs, group_quads;

  template <int ROWS>
  void multiply(const Rows& rows, int first, int panel, float* output) const {
    const uint8_t* weights = panels + static_cast<size_t>(panel) * PANEL * QUAD * rows.quads / 2;
    const int32_t* activations = rows.packed.data() + static_cast<size_t>(first) * rows.quads;
    const int32_t* row_sums = rows.sums.data() + static_cast<size_t>(first) * rows.groups;
    const __m512i nibble = _mm512_set1_epi8(15);
    for (int g = 0; g < rows.groups; g++) {
      const size_t outputs_at = static_cast<size_t>(g) * outputs + panel * PANEL;
      Sums<ROWS> sums;
      if (zeros == nullptr)
        start_sums<ROWS>(sums, row_sums + g, rows.groups, INT4_ZERO);
      else
        start_sums<ROWS>(sums, row_sums + g, rows.groups, zeros + outputs_at);
      for (int q = 0; q < group_quads; q += 2, weights += PANEL * QUAD, activations += 2 * ROWS) {
        prefetch(weights + AHEAD_BYTES);
        const __m512i a = _mm512_loadu_si512(weights), b = _mm512_loadu_si512(weights + 64);
        const __m512i low[VECTORS] = {_mm512_and_si512(a, nibble), _mm512_and_si512(b, nibble)};
        add_quad<ROWS>(sums, low, activations);
        const __m512i high[VECTORS] = {_mm512_and_si512(_mm512_srli_epi32(a, 4), nibble),
                                       _mm512_and_si512(_mm512_srli_epi32(b, 4), nibble)};
        add_quad<ROWS>(sums, high, activations + ROWS);
      }
      for (int v = 0; v < VECTORS; v++) {
        const __m512 scale = load_bfloat(scales + outputs_at + v * LANES);
#pragma GCC unroll 12
        for (int r = 0; r < ROWS; r++) {
          float* to = output + r * PANEL + v * LANES;
          const __m512 before = g == 0 ? _mm512_setzero_ps() : _mm512_loadu_ps(to);
          _mm512_storeu_ps(to, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[r][v]), scale, before));
        }
      }
    }
  }
};

template <typename Weights, int ROWS = TILE>
inline void multiply(const Weights& weights, int rows_in_tile, const Rows& rows, int first,
                     int panel, float* output) {
  if constexpr (ROWS > 0) {
    if (rows_in_tile == ROWS) return weights.template multiply<ROWS>(rows, first, panel, output);
    multiply<Weights, ROWS - 1>(weights, rows_in_tile, rows, first, panel, output);
  }
}

struct Output {  // rows (T, width) of one of the two types; bias (width) may be null
  bfloat* narrow;
  float* wide;
  const bfloat* bias;
  int width;

  void write(size_t row, int column, float factor, const float* from) const {
    for (int i = 0; i < PANEL && column + i < width; i += LANES) {
      const int left = width - column - i;
      const __mmask16 mask = left < LANES ? (1 << left) - 1 : 0xffff;
      __m512 x = _mm512_mul_ps(_mm512_loadu_ps(from + i), _mm512_set1_ps(factor));
      if (bias != nullptr) x = _mm512_add_ps(x, load_some(bias + column + i, mask));
      const size_t at = row * width + column + i;
      if (narrow != nullptr)
        _mm256_mask_storeu_epi16(narrow + at, mask, (__m256i)_mm512_cvtneps_pbh(x));
      else
        _mm512_mask_storeu_ps(wide + at, mask, x);
    }
  }

  static __m512 load_some(const bfloat* from, __mmask16 mask) {
    const __m512i bits = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from));
    return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
  }
};

// Rows (T, inputs) of bytes around 128 become signed tiles; columns beyond `inputs` are zero.
void pack(Rows& rows, const uint8_t* bytes, int inputs) {
  const int group_quads = rows.quads / rows.groups, filled = inputs / QUAD;
  const int tiles = rows.tiles();
#pragma omp for schedule(static)
  for (int tile = 0; tile < tiles; tile++) {
    const int first = rows.start(tile), height = rows.start(tile + 1) - first;
    int32_t* to = rows.packed.data() + static_cast<size_t>(first) * rows.quads;
    int32_t* sums = rows.sums.data() + static_cast<size_t>(first) * rows.groups;
    std::fill(sums, sums + static_cast<size_t>(height) * rows.groups, 0);
    for (int r = 0; r < height; r++) {
      const uint8_t* from = bytes + static_cast<size_t>(first + r) * inputs;
      for (int g = 0; g < rows.groups; g++) {
        __m512i sum = _mm512_setzero_si512();
        const int end = std::min((g + 1) * group_quads, filled);
        for (int q = g * group_quads; q < end; q += LANES) {
          const __mmask16 mask = end - q < LANES ? (1 << (end - q)) - 1 : 0xffff;
          __m512i quads = _mm512_maskz_loadu_epi32(mask, from + q * QUAD);
          quads = _mm512_mask_xor_epi32(quads, mask, quads, _mm512_set1_epi8(-128));
          sum = _mm512_dpbusd_epi32(sum, _mm512_set1_epi8(1), quads);
          alignas(64) int32_t lanes[LANES];
          _mm512_store_si512(lanes, quads);
          for (int i = 0; i < LANES && q + i < end; i++)
            to[static_cast<size_t>(q + i) * height + r] = lanes[i];
        }
        sums[r * rows.groups + g] = _mm512_reduce_add_epi32(sum);
      }
      for (int q = filled; q < rows.quads; q++) to[static_cast<size_t>(q) * height + r] = 0;
    }
  }
}

template <typename Weights>
void run(const Weights& weights, const uint8_t* bytes, const float* factors, const Output& output,
         int count, int inputs, int quads, int groups) {
  thread_local Rows rows;  // kept: fresh pages cost more than the packing
  rows.count = count, rows.quads = quads, rows.groups = groups;
  rows.packed.resize(std::max(rows.packed.size(), static_cast<size_t>(count) * quads));
  rows.sums.resize(std::max(rows.sums.size(), static_cast<size_t>(count) * groups));
  Rows& shared = rows;
  const int panels = (output.width + PANEL - 1) / PANEL, tiles = rows.tiles();
  const int block = std::max<int>(1, BLOCK_BYTES / (static_cast<size_t>(TILE) * QUAD * quads));
  const int blocks = (tiles + block - 1) / block;
#pragma omp parallel
  {
    pack(shared, bytes, inputs);
    alignas(64) float sums[TILE * PANEL];
#pragma omp for collapse(2) schedule(dynamic, 1)
    for (int b = 0; b < blocks; b++) {
      for (int panel = 0; panel < panels; panel++) {
        for (int tile = b * block; tile < std::min(tiles, (b + 1) * block); tile++) {
          const int first = shared.start(tile), height = shared.start(tile + 1) - first;
          multiply(weights, height, shared, first, panel, sums);
          for (int r = 0; r < height; r++)
            output.write(first + r, panel * PANEL, factors[first + r], sums + r * PANEL);
        }
      }
    }
  }
}

}  // namespace

extern "C" {

// bytes (T, inputs) around 128 with factors (T); scales (N'); N' is `outputs` filled up to
// panels. bias (outputs) may be null; one of narrow and wide (T, outputs) is.
void nightshift_multiply_int8(const uint8_t* bytes, const float* factors, const uint8_t* panels,
                              const float* scales, const bfloat* bias, bfloat* narrow, float* wide,
                              int rows, int inputs, int outputs) {
  const Output output{narrow, wide, bias, outputs};
  run(Int8Weights{panels, scales}, bytes, factors, output, rows, inputs, inputs / QUAD, 1);
}

// The same with scales and zeros (filled / group, N'); zeros may be null, which means 8 each.
// `filled` is inputs filled up to whole groups.
void nightshift_multiply_int4(const uint8_t* bytes, const float* factors, const uint8_t* panels,
                              const bfloat* scales, const uint8_t* zeros, const bfloat* bias,
                              bfloat* narrow, float* wide, int rows, int inputs, int outputs,
                              int filled, int group) {
  const Output output{narrow, wide, bias, outputs};
  const int padded = (outputs + PANEL - 1) / PANEL * PANEL;
  const Int4Weights weights{panels, scales, zeros, padded, group / QUAD};
  run(weights, bytes, factors, output, rows, inputs, filled / QUAD, filled / group);
}

// Weights (outputs, inputs) int8 as panels (N' / 32, inputs / 4, 32, 4) of weight + 128.
void nightshift_pack_int8(const int8_t* weights, uint8_t* panels, int outputs, int inputs) {
  const int count = (outputs + PANEL - 1) / PANEL, quads = inputs / QUAD;
#pragma omp parallel for schedule(static)
  for (int panel = 0; panel < count; panel++) {
    uint32_t* to = reinterpret_cast<uint32_t*>(panels) + static_cast<size_t>(panel) * quads * PANEL;
    for (int n = 0; n < PANEL; n++) {
      const int row = std::min(panel * PANEL + n, outputs - 1);  // filled up with the last one
      const int8_t* from = weights + static_cast<size_t>(row) * inputs;
      for (int q = 0; q < quads; q++) {
        uint32_t quad;
        std::memcpy(&quad, from + q * QUAD, QUAD);
        to[static_cast<size_t>(q) * PANEL + n] = quad ^ 0x80808080u;
      }
    }
  }
}

// Nibbles (outputs, filled / 2), the even input in the low one, as panels
// (N' / 32, filled / 8, 32, 4): the first four of eight inputs in the low nibbles.
void nightshift_pack_int4(const uint8_t* nibbles, uint8_t* panels, int outputs, int filled) {
  const int count = (outputs + PANEL - 1) / PANEL, octets = filled / 8;
#pragma omp parallel for schedule(static)
  for (int panel = 0; panel < count; panel++) {
    uint32_t* to = reinterpret_cast<uint32_t*>(panels) + static_cast<size_t>(panel) * octets * PANEL;
    for (int n = 0; n < PANEL; n++) {
      const int row = std::min(panel * PANEL + n, outputs - 1);
      const uint8_t* from = nibbles + static_cast<size_t>(row) * filled / 2;
      for (int o = 0; o < octets; o++) {
        uint32_t x, y = 0;  // x: inputs 1 0 | 3 2 | 5 4 | 7 6; y: 4 0 | 5 1 | 6 2 | 7 3
        std::memcpy(&x, from + o * 4, 4);
        for (int i = 0; i < 4; i++)
          y |= (x >> (4 * i) & 15) << (8 * i) | (x >> (4 * (i + 4)) & 15) << (8 * i + 4);
        to[static_cast<size_t>(o) * PANEL + n] = y;
      }
    }
  }
}

}  // extern "C"
