// The coordinatewise LSTM of _lstm_cell.py, a window of it and a step, for blocks of B coordinates that stay in a core's cache.
//
// A step of one layer, for the B coordinates of a block ([.., B], coordinates last, as in _lstm_cell.py):
//     a = W (x, h, 1),  (i, f, z, o) = (t_i / 2 + 1/2, t_f / 2 + 1/2, t_z, t_o / 2 + 1/2) with t = tanh a,
//     c' = f c + i z,  h' = o tanh c';  W [4H, inputs + H + 1] has the halves of sigmoid(a) = (tanh(a / 2) + 1) / 2 in it.
// Updates are u = k . h' + b of the last layer. Backwards, from d_u and what later steps and the layer above ask of h' and c':
//     d_c' += d_h' o (1 - tanh² c'),   d_a = (d_c' z / 2, d_c' c / 2, d_c' i, d_h' tanh c' / 2) (1 - t²),
//     d_c = d_c' f,   d_(x, h) = Wᵀ d_a,   d_W += d_a (x, h, 1)ᵀ.
// A block is run forwards over the whole window, its activations kept, and backwards at once: they never leave the cache, and
// memory holds what goes in alone. tanh is a quotient of polynomials (fitted here, 4e-7 off at most). Lanes are coordinates;
// for d_W, which sums over them, d_a is transposed, and lanes are the rows of W.
//
// Built three times, with -DL2L_ISA=avx512, avx2 and base and the compiler's flags for these; the last with -DL2L_FFI, which adds
// what XLA calls and chooses by the machine that it runs on. Without that there is nothing of XLA in it: tests/optimizers/native_driver.cc.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

namespace {

#if defined(__AVX512F__)
constexpr int V = 16, ROWS = 8, VECS = 5;  // lanes; rows of a product, and vectors of an outer one, that registers hold
#elif defined(__AVX2__)
constexpr int V = 8, ROWS = 6, VECS = 3;
#else
constexpr int V = 4, ROWS = 6, VECS = 3;
#endif
constexpr int B = 2 * V;  // coordinates of a block
constexpr int COLUMNS = 4;  // of an outer product

typedef float vec __attribute__((vector_size(4 * V), may_alias));

inline vec load(const float* from) { return *reinterpret_cast<const vec*>(from); }
inline void store(float* to, vec value) { *reinterpret_cast<vec*>(to) = value; }

// tanh x = x P(x²) / Q(x²), both of degree 4, below 8 in size; beyond, tanh is 1 in float.
inline void quotient(vec& x, vec& q) {
  const vec most = vec{} + 8.0f;
  x = x > most ? most : x;  // what is not a number stays so
  x = x < -most ? -most : x;
  const vec y = x * x;
  vec p = vec{} + 1.523017148e-08f;
  p = p * y + 2.189449615e-05f;
  p = p * y + 3.571588340e-03f;
  p = p * y + 1.344448993e-01f;
  p = p * y + 9.999999936e-01f;
  x = x * p;
  q = vec{} + 8.522349619e-07f;
  q = q * y + 3.411275924e-04f;
  q = q * y + 2.616440644e-02f;
  q = q * y + 4.677781726e-01f;
  q = q * y + 1.0f;
}

inline vec tanh_of(vec x) {
  vec q;
  quotient(x, q);
  return x / q;
}

// Of two at once, with one division: they are what tanh costs. Q is at most 242.
inline void tanh_of(vec& a, vec& b) {
  vec qa, qb;
  quotient(a, qa);
  quotient(b, qb);
  const vec inverse = 1.0f / (qa * qb);
  a *= qb * inverse;
  b *= qa * inverse;
}

// Memory of a thread that is kept from call to call: fresh pages would be touched anew at each.
class Arena {
 public:
  void begin(size_t floats) {
    if (floats > room_) {
      std::free(all_);
      room_ = floats;
      all_ = static_cast<float*>(std::aligned_alloc(64, (floats * sizeof(float) + 63) / 64 * 64));
      if (all_ == nullptr) throw std::bad_alloc();
    }
    used_ = 0;
  }
  float* take(size_t floats) {  // whole cache lines each
    float* at = all_ + used_;
    used_ += lines(floats);
    return at;
  }
  static size_t lines(size_t floats) { return (floats + 15) / 16 * 16; }
  ~Arena() { std::free(all_); }

 private:
  float* all_ = nullptr;
  size_t room_ = 0, used_ = 0;
};

inline int up(int count, int step) { return (count + step - 1) / step * step; }

// A matrix [rows, columns] as panels of ROWS rows, column by column, with rows of zeros at the end.
void pack(const float* matrix, int rows, int columns, ptrdiff_t row, ptrdiff_t column, float* to) {
  for (int first = 0; first < rows; first += ROWS)
    for (int k = 0; k < columns; ++k)
      for (int r = 0; r < ROWS; ++r) *to++ = first + r < rows ? matrix[(first + r) * row + k * column] : 0.0f;
}

// out [up(rows), B] = panels [rows, k1 + k2] (a [k1, B], b [k2, B]) + start [up(rows)], or nothing.
void product(const float* panels, int rows, int k1, const float* a, int k2, const float* b, const float* start, float* out) {
  for (int first = 0; first < rows; first += ROWS) {
    vec sums[ROWS][2];
    for (int r = 0; r < ROWS; ++r) sums[r][0] = sums[r][1] = vec{} + (start ? start[first + r] : 0.0f);
    auto add = [&](const float* in, int count) {
      for (int k = 0; k < count; ++k, panels += ROWS) {
        const vec left = load(in + k * B), right = load(in + k * B + V);
        for (int r = 0; r < ROWS; ++r) {
          sums[r][0] += panels[r] * left;
          sums[r][1] += panels[r] * right;
        }
      }
    };
    add(a, k1);
    add(b, k2);
    for (int r = 0; r < ROWS; ++r) {
      store(out + (first + r) * B, sums[r][0]);
      store(out + (first + r) * B + V, sums[r][1]);
    }
  }
}

template <int N, int K>
inline void outer_part(const float* turned, int wide, const float* in, float* total) {
  vec sums[K][N];
  for (int k = 0; k < K; ++k)
    for (int n = 0; n < N; ++n) sums[k][n] = load(total + k * wide + n * V);
  for (int lane = 0; lane < B; ++lane)
    for (int n = 0; n < N; ++n) {
      const vec of_lane = load(turned + lane * wide + n * V);
      for (int k = 0; k < K; ++k) sums[k][n] += in[k * B + lane] * of_lane;
    }
  for (int k = 0; k < K; ++k)
    for (int n = 0; n < N; ++n) store(total + k * wide + n * V, sums[k][n]);
}

template <int N>
inline void outer_columns(const float* turned, int wide, int count, const float* in, float* total) {
  int k = 0;
  for (; k + COLUMNS <= count; k += COLUMNS) outer_part<N, COLUMNS>(turned, wide, in + k * B, total + k * wide);
  for (; k < count; ++k) outer_part<N, 1>(turned, wide, in + k * B, total + k * wide);
}

// total [count, wide] += in [count, B] turned [B, wide].
void outer(const float* turned, int wide, int count, const float* in, float* total) {
  for (int first = 0; first < wide;) {
    const int left = (wide - first) / V;
    const float* from = turned + first;
    float* to = total + first;
    if (left >= VECS) {
      outer_columns<VECS>(from, wide, count, in, to);
      first += VECS * V;
    } else if (left >= 2) {
      outer_columns<2>(from, wide, count, in, to);
      first += 2 * V;
    } else {
      outer_columns<1>(from, wide, count, in, to);
      first += V;
    }
  }
}

typedef int32_t lanes __attribute__((vector_size(4 * V)));

// Exchanges the upper right with the lower left part of every K x K tile of a V x V matrix, for K = V / 2 down to 1.
template <int K>
inline void exchange(vec* rows) {
  lanes upper, lower;
  for (int j = 0; j < V; ++j) {
    upper[j] = j & K ? V + j - K : j;
    lower[j] = j & K ? V + j : j + K;
  }
  for (int i = 0; i < V; ++i) {
    if (i & K) continue;
    const vec a = rows[i], b = rows[i | K];
    rows[i] = __builtin_shuffle(a, b, upper);
    rows[i | K] = __builtin_shuffle(a, b, lower);
  }
  if constexpr (K > 1) exchange<K / 2>(rows);
}

// [rows, B] -> [B, up(rows, V)]; what is beyond the rows is read, and written, too.
void transpose(const float* from, int wide, float* to) {
  for (int first = 0; first < wide; first += V)
    for (int lane = 0; lane < B; lane += V) {
      vec tile[V];
      for (int r = 0; r < V; ++r) tile[r] = load(from + (first + r) * B + lane);
      exchange<V / 2>(tile);
      for (int r = 0; r < V; ++r) store(to + (lane + r) * wide + first, tile[r]);
    }
}

struct Sizes {
  int layers, hidden, inputs, steps;
  int64_t size, begin, end;  // N of a task; which coordinates are worked on, of all tasks' one after the other
  int below(int layer) const { return layer ? hidden : inputs; }
  int columns(int layer) const { return below(layer) + hidden; }  // the bias's not among them
  int rows() const { return up(4 * hidden, ROWS); }
  int wide() const { return up(4 * hidden, V); }
};

// Calls each(task, first, place, count) for the parts of a block that are of one task: its coordinates from `first` on are the
// block's lanes from `place` on. [tasks, rows, N] lies row by row, a task after the other.
template <typename Each>
inline void by_task(const Sizes& s, int64_t at, const Each& each) {
  const int there = s.end - at < B ? static_cast<int>(s.end - at) : B;
  for (int place = 0; place < there;) {
    const int64_t task = (at + place) / s.size, first = (at + place) % s.size;
    const int count = s.size - first < there - place ? static_cast<int>(s.size - first) : there - place;
    each(task, first, place, count);
    place += count;
  }
}

// A block's coordinates, [rows, B], from [tasks, rows, N]; beyond the end zeros.
void cut(const float* from, int rows, const Sizes& s, int64_t at, float* to) {
  if (s.end - at < B) std::memset(to, 0, rows * B * sizeof(float));
  by_task(s, at, [&](int64_t task, int64_t first, int place, int count) {
    const float* own = from + task * rows * s.size + first;
    for (int r = 0; r < rows; ++r) std::memcpy(to + r * B + place, own + r * s.size, count * sizeof(float));
  });
}

void paste(const float* from, int rows, const Sizes& s, int64_t at, float* to) {
  by_task(s, at, [&](int64_t task, int64_t first, int place, int count) {
    float* own = to + task * rows * s.size + first;
    for (int r = 0; r < rows; ++r) std::memcpy(own + r * s.size, from + r * B + place, count * sizeof(float));
  });
}

constexpr int MOST_LAYERS = 8;

struct Weights {
  const float* panels[MOST_LAYERS];
  const float* back[MOST_LAYERS];
  const float* bias[MOST_LAYERS];
};

size_t room_for_weights(const Sizes& s, bool back) {
  size_t room = 0;
  for (int l = 0; l < s.layers; ++l) {
    room += Arena::lines(s.rows() * s.columns(l)) + Arena::lines(s.rows());
    if (back) room += Arena::lines(up(s.columns(l), ROWS) * 4 * s.hidden);
  }
  return room;
}

Weights packed(const Sizes& s, const float* const* matrices, bool back, Arena& arena) {
  Weights found;
  for (int l = 0; l < s.layers; ++l) {
    const int columns = s.columns(l), rows = 4 * s.hidden;
    float* panels = arena.take(s.rows() * columns);
    pack(matrices[l], rows, columns, columns + 1, 1, panels);
    float* bias = arena.take(s.rows());
    for (int r = 0; r < s.rows(); ++r) bias[r] = r < rows ? matrices[l][r * (columns + 1) + columns] : 0.0f;
    found.panels[l] = panels;
    found.bias[l] = bias;
    if (back) {
      float* turned = arena.take(up(columns, ROWS) * rows);
      pack(matrices[l], columns, rows, 1, columns + 1, turned);
      found.back[l] = turned;
    }
  }
  return found;
}

// One layer's step: gates [up(4H), B] are left as tanh of their pre-activations.
void forward(const Sizes& s, const Weights& weights, int layer, const float* x, const float* h, const float* c, float* gates,
             float* new_h, float* new_c, float* tanh_c) {
  const int hidden = s.hidden, part = hidden * B;
  product(weights.panels[layer], 4 * hidden, s.below(layer), x, hidden, h, weights.bias[layer], gates);
  for (int at = 0; at < part; at += V) {
    vec ti = load(gates + at), tf = load(gates + part + at), z = load(gates + 2 * part + at), to = load(gates + 3 * part + at);
    tanh_of(ti, tf);
    tanh_of(z, to);
    const vec after = (0.5f * tf + 0.5f) * load(c + at) + (0.5f * ti + 0.5f) * z;
    const vec bent = tanh_of(after);
    store(gates + at, ti);
    store(gates + part + at, tf);
    store(gates + 2 * part + at, z);
    store(gates + 3 * part + at, to);
    store(new_c + at, after);
    store(tanh_c + at, bent);
    store(new_h + at, (0.5f * to + 0.5f) * bent);
  }
}

void step(const Sizes& s, const float* const* matrices, const float* kernel, float bias, const float* const* h,
          const float* const* c, const float* x, float* const* new_h, float* const* new_c, float* updates) {
  static thread_local Arena arena;
  const int part = s.hidden * B;
  arena.begin(room_for_weights(s, false) + Arena::lines(s.inputs * B) + Arena::lines(s.rows() * B) + 6 * Arena::lines(part));
  const Weights weights = packed(s, matrices, false, arena);
  float *shown = arena.take(s.inputs * B), *gates = arena.take(s.rows() * B);
  float* own[6];
  for (float*& each : own) each = arena.take(part);
  for (int64_t at = s.begin; at < s.end; at += B) {
    cut(x, s.inputs, s, at, shown);
    const float* below = shown;
    for (int l = 0; l < s.layers; ++l) {
      float* after = own[2 + l % 2];  // the layer below's is read while this one's is written
      cut(h[l], s.hidden, s, at, own[0]);
      cut(c[l], s.hidden, s, at, own[1]);
      forward(s, weights, l, below, own[0], own[1], gates, after, own[4], own[5]);
      paste(after, s.hidden, s, at, new_h[l]);
      paste(own[4], s.hidden, s, at, new_c[l]);
      below = after;
    }
    vec left = vec{} + bias, right = left;
    for (int j = 0; j < s.hidden; ++j) {
      left += kernel[j] * load(below + j * B);
      right += kernel[j] * load(below + j * B + V);
    }
    store(shown, left);
    store(shown + V, right);
    paste(shown, 1, s, at, updates);
  }
}

// What one layer keeps of a block's window: h and c before each step and after the last, gates, tanh c.
struct Trace {
  float *h, *c, *gates, *tanh_c;
};

void window(const Sizes& s, const float* const* matrices, const float* kernel, const float* const* h, const float* const* c,
            const float* x, const float* d_updates, float* const* d_matrices, float* d_kernel, float* d_bias) {
  static thread_local Arena arena;
  const int hidden = s.hidden, part = hidden * B, rows = 4 * hidden, wide = s.wide();
  const size_t kept = 2 * Arena::lines((s.steps + 1) * part) + Arena::lines(s.steps * s.rows() * B) + Arena::lines(s.steps * part);
  size_t room = room_for_weights(s, true) + Arena::lines(s.steps * s.inputs * B) + Arena::lines(s.steps * B);
  room += s.layers * (kept + 2 * Arena::lines(part)) + 2 * Arena::lines(B * wide) + 2 * Arena::lines(part);
  for (int l = 0; l < s.layers; ++l) room += 2 * Arena::lines((s.columns(l) + 1) * wide);
  room += Arena::lines(up(2 * hidden > s.inputs + hidden ? 2 * hidden : s.inputs + hidden, ROWS) * B);
  arena.begin(room);
  const Weights weights = packed(s, matrices, true, arena);
  float *shown = arena.take(s.steps * s.inputs * B), *asked = arena.take(s.steps * B);
  Trace traces[MOST_LAYERS];
  float *d_h[MOST_LAYERS], *d_c[MOST_LAYERS], *total[MOST_LAYERS], *of_block[MOST_LAYERS];
  for (int l = 0; l < s.layers; ++l) {
    traces[l] = {arena.take((s.steps + 1) * part), arena.take((s.steps + 1) * part), arena.take(s.steps * s.rows() * B),
                 arena.take(s.steps * part)};
    d_h[l] = arena.take(part);
    d_c[l] = arena.take(part);
    total[l] = arena.take((s.columns(l) + 1) * wide);
    of_block[l] = arena.take((s.columns(l) + 1) * wide);
    std::memset(total[l], 0, (s.columns(l) + 1) * wide * sizeof(float));
  }
  float *d_gates = arena.take(wide * B), *turned = arena.take(B * wide), *d_below = arena.take(part), *read = arena.take(part);
  float* d_in = arena.take(up(2 * hidden > s.inputs + hidden ? 2 * hidden : s.inputs + hidden, ROWS) * B);
  std::memset(d_gates, 0, wide * B * sizeof(float));  // what is beyond 4H stays so
  std::memset(read, 0, part * sizeof(float));
  double of_bias = 0;

  for (int64_t at = s.begin; at < s.end; at += B) {
    cut(x, s.steps * s.inputs, s, at, shown);
    cut(d_updates, s.steps, s, at, asked);
    for (int l = 0; l < s.layers; ++l) {
      cut(h[l], hidden, s, at, traces[l].h);
      cut(c[l], hidden, s, at, traces[l].c);
      std::memset(d_h[l], 0, part * sizeof(float));
      std::memset(d_c[l], 0, part * sizeof(float));
      std::memset(of_block[l], 0, (s.columns(l) + 1) * wide * sizeof(float));
    }
    for (int t = 0; t < s.steps; ++t) {
      const float* below = shown + t * s.inputs * B;
      for (int l = 0; l < s.layers; ++l) {
        const Trace& own = traces[l];
        forward(s, weights, l, below, own.h + t * part, own.c + t * part, own.gates + t * s.rows() * B, own.h + (t + 1) * part,
                own.c + (t + 1) * part, own.tanh_c + t * part);
        below = own.h + (t + 1) * part;
      }
    }
    for (int t = s.steps - 1; t >= 0; --t) {
      const float *wanted = asked + t * B, *last = traces[s.layers - 1].h + (t + 1) * part;
      for (int lane = 0; lane < B; ++lane) of_bias += wanted[lane];
      for (int j = 0; j < hidden; ++j)
        for (int v = 0; v < B; v += V) {
          const int place = j * B + v;
          store(read + place, load(read + place) + load(wanted + v) * load(last + place));
          store(d_below + place, kernel[j] * load(wanted + v));
        }
      for (int l = s.layers - 1; l >= 0; --l) {
        const Trace& own = traces[l];
        const float *gates = own.gates + t * s.rows() * B, *before = own.c + t * part, *bent = own.tanh_c + t * part;
        const float* above = l + 1 < s.layers ? d_in : d_below;  // what the layer above asks comes first in its d_(x, h)
        for (int p = 0; p < part; p += V) {
          const vec ti = load(gates + p), tf = load(gates + part + p), z = load(gates + 2 * part + p);
          const vec to = load(gates + 3 * part + p), tc = load(bent + p);
          const vec by_h = load(d_h[l] + p) + load(above + p);
          const vec by_c = load(d_c[l] + p) + by_h * (0.5f * to + 0.5f) * (1.0f - tc * tc);
          store(d_gates + p, 0.5f * by_c * z * (1.0f - ti * ti));
          store(d_gates + part + p, 0.5f * by_c * load(before + p) * (1.0f - tf * tf));
          store(d_gates + 2 * part + p, by_c * (0.5f * ti + 0.5f) * (1.0f - z * z));
          store(d_gates + 3 * part + p, 0.5f * by_h * tc * (1.0f - to * to));
          store(d_c[l] + p, by_c * (0.5f * tf + 0.5f));
        }
        const int lower = s.below(l);
        product(weights.back[l], s.columns(l), rows, d_gates, 0, nullptr, nullptr, d_in);
        std::memcpy(d_h[l], d_in + lower * B, part * sizeof(float));
        transpose(d_gates, wide, turned);
        const float* below = l ? traces[l - 1].h + (t + 1) * part : shown + t * s.inputs * B;
        outer(turned, wide, lower, below, of_block[l]);
        outer(turned, wide, hidden, own.h + t * part, of_block[l] + lower * wide);
        float* of_ones = of_block[l] + s.columns(l) * wide;
        for (int lane = 0; lane < B; ++lane)
          for (int r = 0; r < wide; r += V) store(of_ones + r, load(of_ones + r) + load(turned + lane * wide + r));
      }
    }
    // Block by block, so that a sum has few small parts and not many.
    for (int l = 0; l < s.layers; ++l)
      for (int p = 0; p < (s.columns(l) + 1) * wide; p += V) store(total[l] + p, load(total[l] + p) + load(of_block[l] + p));
  }
  for (int l = 0; l < s.layers; ++l)
    for (int r = 0; r < rows; ++r)
      for (int k = 0; k <= s.columns(l); ++k) d_matrices[l][r * (s.columns(l) + 1) + k] = total[l][k * wide + r];
  for (int j = 0; j < hidden; ++j) {
    d_kernel[j] = 0;
    for (int lane = 0; lane < B; ++lane) d_kernel[j] += read[j * B + lane];
  }
  *d_bias = static_cast<float>(of_bias);
}

}  // namespace

#define L2L_JOIN_(name, isa) name##_##isa
#define L2L_JOIN(name, isa) L2L_JOIN_(name, isa)
#define L2L_NAME(name) L2L_JOIN(name, L2L_ISA)

extern "C" void L2L_NAME(l2l_step)(int layers, int hidden, int inputs, int64_t size, int64_t begin, int64_t end,
                                   const float* const* matrices, const float* kernel, float bias, const float* const* h,
                                   const float* const* c, const float* x, float* const* new_h, float* const* new_c,
                                   float* updates) {
  step({layers, hidden, inputs, 1, size, begin, end}, matrices, kernel, bias, h, c, x, new_h, new_c, updates);
}

extern "C" void L2L_NAME(l2l_window)(int layers, int hidden, int inputs, int steps, int64_t size, int64_t begin, int64_t end,
                                     const float* const* matrices, const float* kernel, const float* const* h,
                                     const float* const* c, const float* x, const float* d_updates, float* const* d_matrices,
                                     float* d_kernel, float* d_bias) {
  window({layers, hidden, inputs, steps, size, begin, end}, matrices, kernel, h, c, x, d_updates, d_matrices, d_kernel, d_bias);
}

#ifdef L2L_FFI

#include <algorithm>
#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

#define L2L_DECLARE(isa)                                                                                                       \
  extern "C" void l2l_step_##isa(int, int, int, int64_t, int64_t, int64_t, const float* const*, const float*, float,           \
                                 const float* const*, const float* const*, const float*, float* const*, float* const*,         \
                                 float*);                                                                                      \
  extern "C" void l2l_window_##isa(int, int, int, int, int64_t, int64_t, int64_t, const float* const*, const float*,           \
                                   const float* const*, const float* const*, const float*, const float*, float* const*, float*, \
                                   float*);

#if defined(__x86_64__)
L2L_DECLARE(avx512)
L2L_DECLARE(avx2)
#endif

namespace {

auto best_step() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512bw"))
    return l2l_step_avx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return l2l_step_avx2;
#endif
  return l2l_step_base;
}

auto best_window() {
#if defined(__x86_64__)
  if (best_step() == l2l_step_avx512) return l2l_window_avx512;
  if (best_step() == l2l_step_avx2) return l2l_window_avx2;
#endif
  return l2l_window_base;
}

using Floats = ffi::Buffer<ffi::F32>;

constexpr int64_t PART = 2048;  // coordinates that a thread takes at a time: a sum's order must not depend on how many there are

// Calls work(0) .. work(count - 1), on this thread and whichever others of the pool are free. What waits in the pool's queue is
// never waited for: a pool whose threads are all waiting would never end.
template <typename Work>
void in_parts(ffi::ThreadPool& pool, int64_t count, const Work& work) {
  struct Shared {
    std::atomic<int64_t> next{0}, done{0};
    std::atomic<bool> failed{false};
  };
  auto shared = std::make_shared<Shared>();
  const Work* own = &work;  // alive until all parts are done, and no part is begun after the last
  auto run = [shared, count, own] {
    for (int64_t i; (i = shared->next.fetch_add(1)) < count; shared->done.fetch_add(1)) {
      try {
        (*own)(i);
      } catch (const std::bad_alloc&) {
        shared->failed = true;
      }
    }
  };
  const int64_t others = std::min<int64_t>(pool.num_threads(), count) - 1;
  for (int64_t i = 0; i < others; ++i) pool.Schedule(decltype(run)(run));
  run();
  while (shared->done.load() < count) std::this_thread::yield();
  if (shared->failed) throw std::bad_alloc();
}

struct Call {
  int layers, hidden, inputs, steps;
  int64_t size, tasks, batches, parts;  // N; tasks with the same phi; phis; of how many parts the coordinates of one are
  const float* in[4 + 3 * MOST_LAYERS];
  float* out[2 + 2 * MOST_LAYERS];
  int64_t in_size[4 + 3 * MOST_LAYERS], out_size[2 + 2 * MOST_LAYERS];
  size_t ins, outs;

  // What all arguments and results of the batch are.
  Call of(int64_t batch) const {
    Call found = *this;
    for (size_t i = 0; i < ins; ++i) found.in[i] += batch * in_size[i];
    for (size_t i = 0; i < outs; ++i) found.out[i] += batch * out_size[i];
    return found;
  }
  int64_t begin(int64_t part) const { return part * PART; }
  int64_t end(int64_t part) const { return std::min(tasks * size, (part + 1) * PART); }
};

// Arguments are (matrices.., kernel, bias, h.., c.., x, ..), each [phis, ..], from h on [phis, tasks, ..]; results likewise.
ffi::Error gather(ffi::RemainingArgs args, ffi::RemainingRets results, int64_t layers, Call& to) {
  to.ins = args.size();
  to.outs = results.size();
  to.layers = static_cast<int>(layers);
  for (size_t i = 0; i < to.ins; ++i) {
    auto each = args.get<Floats>(i);
    if (!each.has_value()) return each.error();
    const auto sizes = each->dimensions();
    const size_t last = sizes.size();
    if (i == 2 + static_cast<size_t>(layers)) to.hidden = static_cast<int>(sizes[last - 2]);
    if (i == 2 + 3 * static_cast<size_t>(layers)) {
      to.batches = sizes[0];
      to.tasks = sizes[1];
      to.size = sizes[last - 1];
      to.inputs = static_cast<int>(sizes[last - 2]);
      to.steps = last == 5 ? static_cast<int>(sizes[2]) : 1;
    }
    to.in[i] = each->typed_data();
    to.in_size[i] = static_cast<int64_t>(each->element_count());
  }
  for (size_t i = 0; i < to.outs; ++i) {
    auto each = results.get<Floats>(i);
    if (!each.has_value()) return each.error();
    to.out[i] = (*each)->typed_data();
    to.out_size[i] = static_cast<int64_t>((*each)->element_count());
  }
  for (size_t i = 0; i < to.ins && to.batches; ++i) to.in_size[i] /= to.batches;
  for (size_t i = 0; i < to.outs && to.batches; ++i) to.out_size[i] /= to.batches;
  to.parts = (to.tasks * to.size + PART - 1) / PART;
  return ffi::Error::Success();
}

// x [phis, tasks, inputs, N] -> (h.., c.., updates [phis, tasks, N])
ffi::Error step_handler(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets results, int64_t layers) {
  Call call;
  if (auto error = gather(args, results, layers, call); error.failure()) return error;
  const auto step = best_step();
  const int n = call.layers;
  try {
    in_parts(pool, call.batches * call.parts, [&](int64_t i) {
      const Call own = call.of(i / call.parts);
      step(n, own.hidden, own.inputs, own.size, own.begin(i % call.parts), own.end(i % call.parts), own.in, own.in[n],
           *own.in[n + 1], own.in + n + 2, own.in + 2 * n + 2, own.in[3 * n + 2], own.out, own.out + n, own.out[2 * n]);
    });
  } catch (const std::bad_alloc&) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, "no memory for a step of the LSTM");
  }
  return ffi::Error::Success();
}

// x [phis, tasks, W, inputs, N], d_updates [phis, tasks, W, N] -> (d_matrices.., d_kernel, d_bias) [phis, ..]: each part's own
// first, which are then added up.
ffi::Error window_handler(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets results, int64_t layers) {
  Call call;
  if (auto error = gather(args, results, layers, call); error.failure()) return error;
  const auto window = best_window();
  const int n = call.layers;
  int64_t whole = 0;
  for (size_t i = 0; i < call.outs; ++i) whole += call.out_size[i];
  try {
    std::vector<float> found(static_cast<size_t>(whole * call.batches * call.parts));
    in_parts(pool, call.batches * call.parts, [&](int64_t i) {
      const Call own = call.of(i / call.parts);
      float* to[2 + 2 * MOST_LAYERS];
      float* next = found.data() + i * whole;
      for (size_t k = 0; k < own.outs; next += own.out_size[k++]) to[k] = next;
      window(n, own.hidden, own.inputs, own.steps, own.size, own.begin(i % call.parts), own.end(i % call.parts), own.in,
             own.in[n], own.in + n + 2, own.in + 2 * n + 2, own.in[3 * n + 2], own.in[3 * n + 3], to, to[n], to[n + 1]);
    });
    for (int64_t batch = 0; batch < call.batches; ++batch) {
      const Call own = call.of(batch);
      const float* parts = found.data() + batch * call.parts * whole;
      for (size_t k = 0; k < own.outs; parts += own.out_size[k++])
        for (int64_t at = 0; at < own.out_size[k]; ++at) {
          double sum = 0;
          for (int64_t part = 0; part < call.parts; ++part) sum += parts[part * whole + at];
          own.out[k][at] = static_cast<float>(sum);
        }
    }
  } catch (const std::bad_alloc&) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, "no memory for a window of the LSTM");
  }
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(l2l_lstm_step, step_handler,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().RemainingArgs().RemainingRets().Attr<int64_t>("layers"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(l2l_lstm_window, window_handler,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().RemainingArgs().RemainingRets().Attr<int64_t>("layers"));

#endif  // L2L_FFI
