// The native LSTM step and window against ones in double precision, a coordinate at a time, written as the formulas read; under
// the sanitizers, with buffers of exactly the sizes that are promised. Prints the largest difference.

#include "../../l2lcli/optimizers/_lstm_native.cc"

#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

using Matrix = std::vector<float>;

struct Case {
  int layers, hidden, inputs, steps, tasks;
  int64_t size;
};

double worst = 0;

void compare(double expected, float found, double scale) { worst = std::fmax(worst, std::fabs(expected - found) / scale); }

void run(const Case& k) {
  std::mt19937 random(7);
  std::normal_distribution<float> normal(0, 0.4f);
  auto draw = [&](size_t count) {
    Matrix m(count);
    for (float& x : m) x = normal(random);
    return m;
  };
  const int H = k.hidden;
  const int64_t N = k.size, all = k.tasks * N;
  std::vector<Matrix> weights, h, c, new_h, new_c, gradients;
  std::vector<int> columns;
  for (int l = 0; l < k.layers; ++l) {
    columns.push_back((l ? H : k.inputs) + H + 1);
    weights.push_back(draw(4 * H * columns[l]));
    gradients.emplace_back(weights[l].size());
    h.push_back(draw(H * all));
    c.push_back(draw(H * all));
    new_h.emplace_back(H * all);
    new_c.emplace_back(H * all);
  }
  Matrix kernel = draw(H), x = draw(k.steps * k.inputs * all), d_updates = draw(k.steps * all), updates(all), d_kernel(H);
  const float bias = 0.3f;
  float d_bias = 0;
  auto pointers = [](std::vector<Matrix>& from) {
    std::vector<float*> to;
    for (Matrix& each : from) to.push_back(each.data());
    return to;
  };
  auto w = pointers(weights), hp = pointers(h), cp = pointers(c), nh = pointers(new_h), nc = pointers(new_c), g = pointers(gradients);

  // In double: forwards with everything kept, then backwards.
  std::vector<std::vector<double>> expected;
  for (int l = 0; l < k.layers; ++l) expected.emplace_back(weights[l].size(), 0.0);
  std::vector<double> by_kernel(H, 0.0);
  double by_bias = 0;
  for (int64_t j = 0; j < all; ++j) {
    const int64_t task = j / N, n = j % N;
    auto at = [&](const Matrix& m, int rows, int row) { return static_cast<double>(m[(task * rows + row) * N + n]); };
    typedef std::vector<double> V1;
    std::vector<std::vector<V1>> in(k.steps), gates(k.steps), old_c(k.steps), bent(k.steps);
    std::vector<V1> hs(k.layers, V1(H)), cs(k.layers, V1(H)), top;
    for (int l = 0; l < k.layers; ++l)
      for (int r = 0; r < H; ++r) hs[l][r] = at(h[l], H, r), cs[l][r] = at(c[l], H, r);
    for (int t = 0; t < k.steps; ++t) {
      V1 below;
      for (int i = 0; i < k.inputs; ++i) below.push_back(at(x, k.steps * k.inputs, t * k.inputs + i));
      for (int l = 0; l < k.layers; ++l) {
        V1 all_in = below;
        all_in.insert(all_in.end(), hs[l].begin(), hs[l].end());
        all_in.push_back(1);
        V1 gate(4 * H), before = cs[l], curve(H);
        for (int r = 0; r < 4 * H; ++r) {
          double a = 0;
          for (int q = 0; q < columns[l]; ++q) a += weights[l][r * columns[l] + q] * all_in[q];
          gate[r] = std::tanh(a);
        }
        for (int r = 0; r < H; ++r) {
          cs[l][r] = (gate[H + r] / 2 + .5) * before[r] + (gate[r] / 2 + .5) * gate[2 * H + r];
          curve[r] = std::tanh(cs[l][r]);
          hs[l][r] = (gate[3 * H + r] / 2 + .5) * curve[r];
        }
        in[t].push_back(all_in), gates[t].push_back(gate), old_c[t].push_back(before), bent[t].push_back(curve);
        below = hs[l];
      }
      top.push_back(below);
    }
    std::vector<V1> dh(k.layers, V1(H, 0.0)), dc(k.layers, V1(H, 0.0));
    for (int t = k.steps - 1; t >= 0; --t) {
      const double wanted = at(d_updates, k.steps, t);
      by_bias += wanted;
      V1 above(H);
      for (int r = 0; r < H; ++r) by_kernel[r] += wanted * top[t][r], above[r] = wanted * kernel[r];
      for (int l = k.layers - 1; l >= 0; --l) {
        const V1& q = gates[t][l];
        V1 d(4 * H), d_in(columns[l], 0.0);
        for (int r = 0; r < H; ++r) {
          const double i = q[r] / 2 + .5, f = q[H + r] / 2 + .5, z = q[2 * H + r], o = q[3 * H + r] / 2 + .5, tc = bent[t][l][r];
          const double d_h = dh[l][r] + above[r], d_c = dc[l][r] + d_h * o * (1 - tc * tc);
          d[r] = d_c * z * (1 - q[r] * q[r]) / 2;
          d[H + r] = d_c * old_c[t][l][r] * (1 - q[H + r] * q[H + r]) / 2;
          d[2 * H + r] = d_c * i * (1 - z * z);
          d[3 * H + r] = d_h * tc * (1 - q[3 * H + r] * q[3 * H + r]) / 2;
          dc[l][r] = d_c * f;
        }
        for (int r = 0; r < 4 * H; ++r)
          for (int p = 0; p < columns[l]; ++p) {
            expected[l][r * columns[l] + p] += d[r] * in[t][l][p];
            d_in[p] += weights[l][r * columns[l] + p] * d[r];
          }
        const int lower = columns[l] - H - 1;
        for (int r = 0; r < H; ++r) dh[l][r] = d_in[lower + r];
        if (l) above.assign(d_in.begin(), d_in.begin() + lower);
      }
    }
  }

  L2L_NAME(l2l_window)(k.layers, H, k.inputs, k.steps, N, 0, all, w.data(), kernel.data(), hp.data(), cp.data(), x.data(),
                       d_updates.data(), g.data(), d_kernel.data(), &d_bias);
  for (int l = 0; l < k.layers; ++l) {
    double scale = 1e-3;
    for (double each : expected[l]) scale = std::fmax(scale, std::fabs(each));
    for (size_t i = 0; i < expected[l].size(); ++i) compare(expected[l][i], gradients[l][i], scale);
  }
  for (int r = 0; r < H; ++r) compare(by_kernel[r], d_kernel[r], std::fabs(by_kernel[r]) + 1);
  compare(by_bias, d_bias, std::fabs(by_bias) + 1);

  if (k.steps != 1) return;  // x is then that of a step, too
  L2L_NAME(l2l_step)(k.layers, H, k.inputs, N, 0, all, w.data(), kernel.data(), bias, hp.data(), cp.data(), x.data(), nh.data(),
                     nc.data(), updates.data());
  for (int64_t j = 0; j < all; ++j) {
    const int64_t task = j / N, n = j % N;
    double sum = bias;
    for (int r = 0; r < H; ++r) sum += kernel[r] * static_cast<double>(new_h.back()[(task * H + r) * N + n]);
    compare(sum, updates[j], 1);
    for (int l = 0; l < k.layers; ++l) {
      std::vector<double> in;
      for (int p = 0; p < (l ? H : k.inputs); ++p)
        in.push_back(l ? new_h[l - 1][(task * H + p) * N + n] : x[(task * k.inputs + p) * N + n]);
      for (int r = 0; r < H; ++r) in.push_back(h[l][(task * H + r) * N + n]);
      in.push_back(1);
      for (int r = 0; r < H; ++r) {
        double a[4];
        for (int gate = 0; gate < 4; ++gate) {
          a[gate] = 0;
          for (int p = 0; p < columns[l]; ++p) a[gate] += weights[l][(gate * H + r) * columns[l] + p] * in[p];
          a[gate] = std::tanh(a[gate]);
        }
        const int64_t place = (task * H + r) * N + n;
        const double after = (a[1] / 2 + .5) * c[l][place] + (a[0] / 2 + .5) * a[2];
        compare(after, new_c[l][place], 1);
        compare((a[3] / 2 + .5) * std::tanh(after), new_h[l][place], 1);
      }
    }
  }
}

int main() {
  for (const Case& each : {Case{1, 1, 1, 1, 1, 1}, Case{2, 20, 2, 1, 1, 70}, Case{2, 20, 2, 5, 1, 33}, Case{1, 8, 7, 3, 3, 10},
                           Case{3, 5, 1, 4, 2, 31}, Case{1, 19, 2, 1, 5, 7}, Case{2, 3, 2, 6, 1, 64}})
    run(each);
  std::printf("%.3g\n", worst);
  return worst < 5e-6 ? 0 : 1;
}
