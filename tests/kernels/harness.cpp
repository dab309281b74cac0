// Calls every kernel on heap memory of exactly the right size, for the sanitizers to watch, and
// compares with sums in double precision. Built and run by experiments/kernel_fuzz.py.
//
// Arguments: a seed and the number of random shapes. Kernels of 1 to 11, strides of 1 to 4, padding
// of 0 to the kernel's size, each apart in height and width; 1 to 2000 channels, planes of one pixel
// and more; ordinary numbers, denormals, NaN and infinity. Prints how many calls it made; ends with
// status 1 at the first wrong value, which it describes. With BF16_PRODUCTS all numbers are bf16 ones,
// so that their products are known as exactly; what a normalisation gives is rounded in between.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <sanitizer/common_interface_defs.h>
#include <tuple>
#include <vector>

struct Window {
    int kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
};
struct Depthwise {
    int64_t n, c, h, w, out_h, out_w;
    Window window;
};
struct Dense {
    int64_t n, in, h, w, out, out_h, out_w;
    Window window;
};
struct Norm {
    int64_t n, c, size;
    float epsilon, momentum;
    int activation;
};
struct Planes {
    int64_t n, c, size;
};
struct Bilinear {
    int64_t planes, h, w, out_h, out_w;
};
extern "C" {
void use_threads(int);
void depthwise_forward(const float*, const float*, float*, const Depthwise*);
void depthwise_backward(const float*, const float*, const float*, float*, float*, const Depthwise*);
void dense_forward(const float*, const float*, float*, const Dense*);
void dense_backward(const float*, const float*, const float*, float*, float*, const Dense*);
void entropy_forward(const float*, const int64_t*, float*, float*, const Planes*);
void entropy_backward(const float*, const int64_t*, const float*, const float*, float*,
                      const Planes*);
void bilinear_forward(const float*, const int64_t*, const float*, const int64_t*, const float*,
                      float*, const Bilinear*);
void bilinear_backward(const float*, const int64_t*, const float*, const int64_t*, const float*,
                       float*, const Bilinear*);
void norm_forward(const float*, const float*, const float*, float*, float*, float*, float*, float*,
                  const Norm*);
void norm_backward(const float*, const float*, const float*, const float*, const float*,
                   const float*, float*, float*, float*, const Norm*);
void norm_values(const float*, const float*, const float*, const float*, const float*, float*,
                 const Norm*);
void norm_sums(const float*, const float*, const float*, const float*, const float*, const float*,
               float*, float*, const Norm*);
void depthwise_norm_forward(const float*, const float*, const float*, const float*, const float*,
                            const float*, float*, float*, float*, float*, float*, const Depthwise*,
                            const Norm*, const Norm*);
void depthwise_norm_backward(const float*, const float*, const float*, const float*, const float*,
                             const float*, const float*, const float*, const float*, const float*,
                             const float*, const float*, const float*, const float*, float*, float*,
                             float*, float*, const Depthwise*, const Norm*, const Norm*);
void dense_norm_forward(const float*, const float*, const float*, const float*, const float*,
                        const float*, float*, float*, float*, float*, float*, const Dense*,
                        const Norm*, const Norm*);
void dense_norm_backward(const float*, const float*, const float*, const float*, const float*,
                         const float*, const float*, const float*, const float*, const float*,
                         const float*, const float*, const float*, const float*, float*, float*,
                         float*, float*, const Dense*, const Norm*, const Norm*);
}

extern "C" {
void attention_means(const float*, const float*, const float*, const float*, const float*, float*,
                     const Planes*, const Norm*);
void attention_forward(const float*, const float*, const float*, const float*, const float*,
                       const float*, float*, const Planes*, const Norm*);
void attention_gates_backward(const float*, const float*, const float*, const float*, const float*,
                              const float*, float*, const Planes*, const Norm*);
void attention_input_backward(const float*, const float*, const float*, const float*, const float*,
                              const float*, const float*, const float*, float*, float*, float*,
                              const Planes*, const Norm*);
}

struct Pool {
    int64_t n, c, h, w, out_h, out_w;
    int kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, average;
};
extern "C" {
void pool_forward(const float*, const float*, const float*, const float*, const float*, float*,
                  const Pool*, const Norm*);
void pool_backward(const float*, const float*, const float*, const float*, const float*,
                   const float*, float*, float*, float*, const Pool*, const Norm*);
}

struct Shuffle {
    Planes half;
    int64_t halved;
};

struct Sum {
    Planes planes;
    int64_t terms;
    int activation;
    float before_scale, before_shift, behind_scale, behind_shift;
};

extern "C" {
void shuffle_forward(const float*, const float*, const float*, const float*, const float*,
                     const float*, const float*, const float*, const float*, const float*, float*,
                     const Shuffle*, const Norm*, const Norm*);
void shuffle_backward(const float*, const float*, const float*, const float*, const float*,
                      const float*, float*, float*, float*, const Planes*, const Norm*);
void sum_forward(const float* const*, const int64_t*, float*, float*, const Sum*);
void sum_backward(const float* const*, const int64_t*, float* const*, const float*, const float*,
                  float*, float*, const Sum*);
void half_forward(const float*, float*, const Planes*);
void half_backward(const float*, const float*, float*, const Planes*);
}

static std::mt19937_64 generator;
static int calls = 0;
static char shape[200];  // the one being tried
static long long seed;   // and how to try it again

static int64_t pick(int64_t low, int64_t high) {
    return low + static_cast<int64_t>(generator() % static_cast<uint64_t>(high - low + 1));
}

enum Values { ORDINARY, DENORMAL, STRANGE };

// new[] puts the sanitizer's guards right at the ends.
struct Array {
    int64_t count;
    std::unique_ptr<float[]> values;
    explicit Array(int64_t size, float value = std::nanf("")) : count(size) {
        values.reset(new float[size]);
        std::fill(values.get(), values.get() + size, value);
    }
    operator float*() const { return values.get(); }
};

// Within which share of their terms sums agree; the second: of values that are rounded in between.
constexpr double EXACT = 1e-5;
#if defined(BF16_PRODUCTS)
constexpr double JOINED = 1e-2;
#else
constexpr double JOINED = EXACT;
#endif

static Array filled(int64_t count, Values kind) {
    Array a(count);
    std::normal_distribution<float> normal;
    const float strange[] = {std::nanf(""), INFINITY, -INFINITY, -0.0f, 3e38f, 1e-45f};
    for (int64_t i = 0; i < count; ++i) {
        a[i] = normal(generator);
        if (kind == DENORMAL) a[i] *= 1e-39f;
        if (kind == STRANGE && pick(0, 9) == 0) a[i] = strange[pick(0, 5)];
#if defined(BF16_PRODUCTS)
        uint32_t bits;
        std::memcpy(&bits, &a[i], sizeof bits);
        bits &= 0xffff0000;
        std::memcpy(&a[i], &bits, sizeof bits);
#endif
    }
    return a;
}

// Every value was written, and lies within rounding of its sum: `size` is that of the terms.
struct Sums {
    std::vector<double> value, size;
    explicit Sums(int64_t count) : value(count), size(count) {}
    void add(int64_t at, double term) {
        value[at] += term;
        size[at] += std::fabs(term);
    }
};

static void compare(const char* name, const Array& found, const Sums& expected,
                    double share = EXACT) {
    for (int64_t i = 0; i < found.count; ++i) {
        const double error = std::fabs(found[i] - expected.value[i]);
        if (!(error <= share * expected.size[i] + 1e-37)) {
            std::printf("seed %lld: %s, %s: value %lld is %g instead of %g\n", seed, shape,
                        name, static_cast<long long>(i), found[i], expected.value[i]);
            std::exit(1);
        }
    }
}

// Each product of a convolution: the places in the input, the weights and the output.
template <typename Use>
static void each_product(int64_t n, int64_t in, int64_t out, bool depthwise, int64_t h, int64_t w,
                         int64_t out_h, int64_t out_w, const Window& k, const Use& use) {
    for (int64_t i = 0; i < n; ++i)
        for (int64_t d = 0; d < out; ++d)
            for (int64_t c = depthwise ? d : 0; c < (depthwise ? d + 1 : in); ++c)
                for (int64_t y = 0; y < out_h; ++y)
                    for (int64_t x = 0; x < out_w; ++x)
                        for (int a = 0; a < k.kernel_h; ++a)
                            for (int b = 0; b < k.kernel_w; ++b) {
                                const int64_t r = y * k.stride_h + a * k.dilation_h - k.pad_h;
                                const int64_t q = x * k.stride_w + b * k.dilation_w - k.pad_w;
                                if (r < 0 || r >= h || q < 0 || q >= w) continue;
                                const int64_t kernel = depthwise ? d : d * in + c;
                                use(((i * in + c) * h + r) * w + q,
                                    (kernel * k.kernel_h + a) * k.kernel_w + b,
                                    ((i * out + d) * out_h + y) * out_w + x);
                            }
}

// Forward and backward of one convolution, against those sums where numbers are ordinary.
template <typename Shape, typename Forward, typename Backward, typename Products>
static void convolution(const Shape& s, int64_t inputs, int64_t weights, int64_t outputs,
                        Values kind, const Forward& forward, const Backward& backward,
                        const Products& products) {
    const Array x = filled(inputs, kind), k = filled(weights, kind), dy = filled(outputs, kind);
    const Array y(outputs), dx(inputs), dk(weights), again(weights);
    forward(x, k, y, &s);
    backward(x, k, dy, dx, dk, &s);
    backward(x, k, dy, nullptr, again, &s);
    calls += 3;
    if (kind != ORDINARY) return;
    Sums ys(outputs), dxs(inputs), dks(weights);
    products([&](int64_t i, int64_t j, int64_t o) {
        ys.add(o, static_cast<double>(x[i]) * k[j]);
        dxs.add(i, static_cast<double>(dy[o]) * k[j]);
        dks.add(j, static_cast<double>(dy[o]) * x[i]);
    });
    compare("output", y, ys);
    compare("gradient of the input", dx, dxs);
    compare("gradient of the weights", dk, dks);
    compare("gradient of the weights alone", again, dks);
}

// A window, and a plane that it fits: its sides, and those of the output.
struct Geometry {
    Window window;
    int64_t h, w, out_h, out_w;
    int64_t work() const { return out_h * out_w * window.kernel_h * window.kernel_w + h * w; }
    void describe(const char* name, int64_t n, int64_t in, int64_t out) const {
        const Window& k = window;
        std::snprintf(shape, sizeof shape,
                      "%s n %d in %d out %d h %d w %d k %dx%d s %dx%d p %dx%d d %dx%d", name, (int)n,
                      (int)in, (int)out, (int)h, (int)w, k.kernel_h, k.kernel_w, k.stride_h,
                      k.stride_w, k.pad_h, k.pad_w, k.dilation_h, k.dilation_w);
    }
};

static int64_t side(int kernel, int stride, int pad, int dilation, int64_t most, int64_t* out) {
    const int reach = (kernel - 1) * dilation + 1;
    const int64_t least = std::max(1, reach - 2 * pad);
    const int64_t size = pick(0, 3) ? pick(least, std::max(least, most)) : least;
    *out = (size + 2 * pad - reach) / stride + 1;
    return size;
}

static Geometry geometry(bool pointwise) {
    Geometry g{{1, 1, 1, 1, 0, 0, 1, 1}, 0, 0, 0, 0};
    Window& k = g.window;
    if (!pointwise) {
        k.kernel_h = pick(1, 11), k.kernel_w = pick(0, 2) ? k.kernel_h : pick(1, 11);
        k.stride_h = pick(1, 4), k.stride_w = pick(0, 1) ? k.stride_h : pick(1, 4);
        if (!pick(0, 3)) k.dilation_h = pick(1, 5), k.dilation_w = pick(1, 5);
        k.pad_h = pick(0, k.kernel_h * k.dilation_h), k.pad_w = pick(0, k.kernel_w * k.dilation_w);
    }
    g.h = side(k.kernel_h, k.stride_h, k.pad_h, k.dilation_h, 40, &g.out_h);
    g.w = side(k.kernel_w, k.stride_w, k.pad_w, k.dilation_w, 40, &g.out_w);
    return g;
}

static int64_t channels(int64_t limit) {  // most often few
    const int64_t highest[] = {4, 20, 70, 2000};
    return std::min(limit, pick(1, highest[pick(0, 3)]));
}

// A convolution and its normalisation, whose input may be one that a normalisation has yet to make,
// against the calls one after another.
template <typename Shape, typename Forward, typename Backward, typename Both, typename BothBack>
static void with_norm(const Shape& s, int64_t ins, int64_t in_size, int64_t outs, int64_t size,
                      int64_t weights, Values kind, const Forward& forward,
                      const Backward& backward, const Both& both, const BothBack& both_back) {
    if (s.n * size < 2 || s.n * in_size < 2) return;  // a single value is not for the kernel
    const Norm norm{s.n, outs, size, 1e-5f, 0.9f, static_cast<int>(pick(0, 3))};
    const Norm given{s.n, ins, in_size, 1e-5f, 0.9f, static_cast<int>(pick(0, 3))};
    const Norm* in = pick(0, 2) ? &given : nullptr;
    const int64_t count = s.n * outs * size, inputs = s.n * ins * in_size;
    const Array x = filled(inputs, kind), k = filled(weights, kind), dz = filled(count, kind);
    const Array gamma = filled(outs, kind), beta = filled(outs, kind);
    const Array in_gamma = filled(ins, kind), in_beta = filled(ins, kind);
    const Array in_mean(ins), in_inverse(ins), rest(ins, 0.0f), more(ins, 1.0f), read(inputs);
    norm_forward(x, in_gamma, in_beta, rest, more, read, in_mean, in_inverse, &given);
    if (!in) std::copy(x.values.get(), x.values.get() + inputs, read.values.get());
    struct Results {
        Array y, z, mean, inverse, running_mean, running_variance, dx, dk, dgamma, dbeta;
        Array in_dgamma, in_dbeta;
        Results(int64_t count, int64_t outs, int64_t inputs, int64_t weights, int64_t ins)
            : y(count), z(count), mean(outs), inverse(outs), running_mean(outs, 0.5f),
              running_variance(outs, 2.0f), dx(inputs), dk(weights), dgamma(outs), dbeta(outs),
              in_dgamma(ins), in_dbeta(ins) {}
    } one(count, outs, inputs, weights, ins), two(count, outs, inputs, weights, ins);
    both(x, in_gamma, in_beta, in_mean, in_inverse, k, one.running_mean, one.running_variance, one.y,
         one.mean, one.inverse, &s, &norm, in);
    norm_values(one.y, gamma, beta, one.mean, one.inverse, one.z, &norm);
    norm_sums(one.y, gamma, beta, one.mean, one.inverse, dz, one.dgamma, one.dbeta, &norm);
    const bool with_dx = pick(0, 3);
    both_back(x, in_gamma, in_beta, in_mean, in_inverse, k, gamma, beta, one.y, one.mean, one.inverse,
              dz, one.dgamma, one.dbeta, with_dx ? static_cast<float*>(one.dx) : nullptr, one.dk,
              one.in_dgamma, one.in_dbeta, &s, &norm, in);
    calls += 4;
    if (kind != ORDINARY) return;
    forward(read, k, two.y, &s);
    norm_forward(two.y, gamma, beta, two.running_mean, two.running_variance, two.z, two.mean,
                 two.inverse, &norm);
    const Array dy(count);
    // from the same statistics: where a channel hardly varies, their rounding decides the rest
    norm_backward(one.y, gamma, beta, one.mean, one.inverse, dz, dy, two.dgamma, two.dbeta, &norm);
    backward(read, k, dy, two.dx, two.dk, &s);
    auto same = [&](const char* name, const Array& found, const Array& expected) {
        Sums sums(found.count);
        float largest = 0;
        for (int64_t i = 0; i < found.count; ++i) {
            sums.value[i] = expected[i];
            largest = std::max(largest, std::fabs(expected[i]));
        }
        for (int64_t i = 0; i < found.count; ++i) sums.size[i] = largest;
        compare(name, found, sums, JOINED);
    };
    same("fused convolution", one.y, two.y);
    same("fused running mean", one.running_mean, two.running_mean);
    same("fused running variance", one.running_variance, two.running_variance);
    same("fused gradient of the scale", one.dgamma, two.dgamma);
    same("fused gradient of the shift", one.dbeta, two.dbeta);
    same("fused gradient of the weights", one.dk, two.dk);
    if (with_dx) same("fused gradient of the input", one.dx, two.dx);
    if (!with_dx || !in) return;
    // from the same gradient: their sums may be next to nothing
    norm_sums(x, in_gamma, in_beta, in_mean, in_inverse, one.dx, two.in_dgamma, two.in_dbeta, in);
    for (const auto& [name, found, expected] :
         {std::tuple<const char*, const Array&, const Array&>
              {"gradient of the scale before", one.in_dgamma, two.in_dgamma},
          {"gradient of the shift before", one.in_dbeta, two.in_dbeta}}) {
        Sums sums(ins);
        float largest = 0;
        for (int64_t i = 0; i < inputs; ++i) largest = std::max(largest, std::fabs(one.dx[i]));
        for (int64_t i = 0; i < ins; ++i) {
            sums.value[i] = expected[i];
            sums.size[i] = static_cast<double>(largest) * s.n * in_size;
        }
        compare(name, found, sums);
    }
}

static void try_depthwise(Values kind) {
    const Geometry g = geometry(false);
    const int64_t n = pick(1, 11), c = channels(std::max<int64_t>(1, 300000 / (g.work() * n)));
    const Depthwise s{n, c, g.h, g.w, g.out_h, g.out_w, g.window};
    g.describe("depthwise", n, c, c);
    convolution(s, n * c * g.h * g.w, c * g.window.kernel_h * g.window.kernel_w,
                n * c * g.out_h * g.out_w, kind, depthwise_forward, depthwise_backward,
                [&](const auto& use) {
                    each_product(n, c, c, true, g.h, g.w, g.out_h, g.out_w, g.window, use);
                });
    with_norm(s, c, g.h * g.w, c, g.out_h * g.out_w,
              c * g.window.kernel_h * g.window.kernel_w, kind, depthwise_forward,
              depthwise_backward, depthwise_norm_forward, depthwise_norm_backward);
}

static void try_dense(Values kind) {
    const Geometry g = geometry(pick(0, 1));
    const int64_t n = pick(1, 5), in = channels(std::max<int64_t>(1, 300000 / (g.work() * n)));
    const int64_t out = channels(std::max<int64_t>(1, 300000 / (g.work() * n * in)));
    const Dense s{n, in, g.h, g.w, out, g.out_h, g.out_w, g.window};
    g.describe("dense", n, in, out);
    convolution(s, n * in * g.h * g.w, out * in * g.window.kernel_h * g.window.kernel_w,
                n * out * g.out_h * g.out_w, kind, dense_forward, dense_backward,
                [&](const auto& use) {
                    each_product(n, in, out, false, g.h, g.w, g.out_h, g.out_w, g.window, use);
                });
    with_norm(s, in, g.h * g.w, out, g.out_h * g.out_w,
              out * in * g.window.kernel_h * g.window.kernel_w, kind, dense_forward,
              dense_backward, dense_norm_forward, dense_norm_backward);
}

// Without activation: y, the statistics, and gradients against their formulas.
static void check_norm(const Norm& s, const Array& x, const Array& gamma, const Array& beta,
                       const Array& dy, const Array& y, const Array& dx, const Array& dgamma,
                       const Array& dbeta, const Array& variance) {
    const int64_t count = s.n * s.c * s.size;
    const double m = static_cast<double>(s.n * s.size);
    Sums ys(count), dxs(count), dgs(s.c), dbs(s.c), vs(s.c);
    for (int64_t c = 0; c < s.c; ++c) {
        auto each = [&](const auto& use) {
            for (int64_t n = 0; n < s.n; ++n)
                for (int64_t i = 0; i < s.size; ++i) use((n * s.c + c) * s.size + i);
        };
        double mean = 0, spread = 0, plain = 0, weighted = 0;
        each([&](int64_t i) { mean += x[i] / m; });
        each([&](int64_t i) { spread += (x[i] - mean) * (x[i] - mean) / m; });
        const double inverse = 1 / std::sqrt(spread + s.epsilon);
        each([&](int64_t i) {
            plain += dy[i] / m;
            weighted += dy[i] * (x[i] - mean) * inverse / m;
            dbs.add(c, dy[i]);
            dgs.add(c, dy[i] * (x[i] - mean) * inverse);
        });
        dgs.size[c] += m, dbs.size[c] += m;
        vs.value[c] = s.momentum * 2 + (1 - s.momentum) * spread;
        vs.size[c] = 2 + spread;
        each([&](int64_t i) {
            const double z = (x[i] - mean) * inverse;
            ys.value[i] = gamma[c] * z + beta[c];
            dxs.value[i] = gamma[c] * inverse * (dy[i] - plain - z * weighted);
            // a plane of few almost equal values makes much of their rounding
            ys.size[i] = std::fabs(gamma[c]) * inverse * 4 + std::fabs(beta[c]);
            dxs.size[i] = std::fabs(gamma[c]) * inverse * (20 + 20 * inverse);
        });
    }
    compare("output", y, ys);
    compare("running variance", variance, vs);
    compare("gradient of the input", dx, dxs);
    compare("gradient of the scale", dgamma, dgs);
    compare("gradient of the shift", dbeta, dbs);
}

static void try_norm(Values kind) {
    Norm s;
    s.size = pick(0, 2) ? pick(1, 400) : 1;
    s.n = pick(s.size == 1 ? 2 : 1, 9);  // a single value is not for the kernel
    s.c = channels(std::max<int64_t>(1, 100000 / (s.n * s.size)));
    s.epsilon = 1e-5f, s.momentum = 0.9f, s.activation = pick(0, 3);
    std::snprintf(shape, sizeof shape, "norm n %d c %d size %d activation %d", static_cast<int>(s.n),
                  static_cast<int>(s.c), static_cast<int>(s.size), s.activation);
    const int64_t count = s.n * s.c * s.size;
    const Array x = filled(count, kind), dy = filled(count, kind);
    const Array gamma = filled(s.c, kind), beta = filled(s.c, kind);
    const Array running_mean(s.c, 0.5f), running_variance(s.c, 2.0f), mean(s.c), inverse(s.c);
    const Array y(count), dx(count), dgamma(s.c), dbeta(s.c);
    norm_forward(x, gamma, beta, running_mean, running_variance, y, mean, inverse, &s);
    norm_backward(x, gamma, beta, mean, inverse, dy, nullptr, dgamma, dbeta, &s);
    norm_backward(x, gamma, beta, mean, inverse, dy, dx, dgamma, dbeta, &s);
    calls += 3;
    if (kind == ORDINARY && s.activation == 0)
        check_norm(s, x, gamma, beta, dy, y, dx, dgamma, dbeta, running_variance);
}

// The gradients of scale and shift that go with dx, that of what a normalisation makes of x.
static void check_sums_before(const Array& x, const Array& gamma, const Array& beta,
                              const Array& mean, const Array& inverse, const Array& dx,
                              const Array& dgamma, const Array& dbeta, const Norm& norm) {
    const Array scale(norm.c), shift(norm.c);
    norm_sums(x, gamma, beta, mean, inverse, dx, scale, shift, &norm);
    Sums scales(norm.c), shifts(norm.c);
    for (int64_t c = 0; c < norm.c; ++c) {
        scales.add(c, scale[c]), shifts.add(c, shift[c]);
        scales.size[c] += static_cast<double>(norm.n * norm.size), shifts.size[c] += scales.size[c];
    }
    compare("gradient of the scale before", dgamma, scales);
    compare("gradient of the shift before", dbeta, shifts);
}

// Of planes as they are, or of what a normalisation has yet to make of them.
static void try_attention(Values kind) {
    Norm norm;
    norm.size = pick(0, 2) ? pick(1, 400) : 1;
    norm.n = pick(norm.size == 1 ? 2 : 1, 9);
    norm.c = channels(std::max<int64_t>(1, 100000 / (norm.n * norm.size)));
    norm.epsilon = 1e-5f, norm.momentum = 0.9f, norm.activation = pick(0, 3);
    const Planes s{norm.n, norm.c, norm.size};
    const Norm* in = pick(0, 1) ? &norm : nullptr;
    std::snprintf(shape, sizeof shape, "attention n %d c %d size %d, after a normalisation: %d",
                  static_cast<int>(s.n), static_cast<int>(s.c), static_cast<int>(s.size), in != nullptr);
    const int64_t count = s.n * s.c * s.size, planes = s.n * s.c;
    const Array x = filled(count, kind), dy = filled(count, kind);
    const Array gates = filled(planes, kind), dmeans = filled(planes, kind);
    const Array gamma = filled(s.c, kind), beta = filled(s.c, kind), mean(s.c), inverse(s.c);
    const Array rest(s.c, 0.0f), more(s.c, 1.0f), read(count), y(count), dx(count);
    const Array means(planes), dgates(planes), dgamma(s.c), dbeta(s.c);
    norm_forward(x, gamma, beta, rest, more, read, mean, inverse, &norm);
    attention_means(x, gamma, beta, mean, inverse, means, &s, in);
    attention_forward(x, gamma, beta, mean, inverse, gates, y, &s, in);
    attention_gates_backward(x, gamma, beta, mean, inverse, dy, dgates, &s, in);
    attention_input_backward(x, gamma, beta, mean, inverse, gates, dy, dmeans, dx, dgamma, dbeta, &s,
                             in);
    calls += 4;
    if (kind != ORDINARY) return;
    const Array& seen = in ? read : x;
    Sums ms(planes), ys(count), dgs(planes), dxs(count);
    for (int64_t p = 0; p < planes; ++p)
        for (int64_t i = p * s.size; i < (p + 1) * s.size; ++i) {
            ms.add(p, static_cast<double>(seen[i]) / static_cast<double>(s.size));
            ys.add(i, static_cast<double>(seen[i]) * gates[p]);
            dgs.add(p, static_cast<double>(seen[i]) * dy[i]);
            dxs.add(i, static_cast<double>(dy[i]) * gates[p]);
            dxs.add(i, static_cast<double>(dmeans[p]) / static_cast<double>(s.size));
        }
    compare("means", means, ms);
    compare("output", y, ys);
    compare("gradient of the gates", dgates, dgs);
    compare("gradient of the input", dx, dxs);
    if (!in) return;
    check_sums_before(x, gamma, beta, mean, inverse, dx, dgamma, dbeta, norm);
}

// Windows of planes as they are, or of what a normalisation has yet to make of them; the last one may
// reach beyond the padding.
static void try_pool(Values kind) {
    Pool s{pick(1, 4), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, static_cast<int>(pick(0, 1))};
    const auto axis = [](int* kernel, int* stride, int* pad, int64_t* size, int64_t* out) {
        *kernel = static_cast<int>(pick(1, 7)), *stride = static_cast<int>(pick(1, 4));
        *pad = static_cast<int>(pick(0, *kernel - 1));
        *size = pick(std::max(1, *kernel - 2 * *pad), 40);
        *out = (*size + 2 * *pad - *kernel) / *stride + 1;
        if (pick(0, 1) && *out * *stride - *pad < *size) ++*out;
    };
    axis(&s.kernel_h, &s.stride_h, &s.pad_h, &s.h, &s.out_h);
    axis(&s.kernel_w, &s.stride_w, &s.pad_w, &s.w, &s.out_w);
    s.c = channels(std::max<int64_t>(1, 100000 / (s.n * s.h * s.w)));
    const Norm norm{s.n, s.c, s.h * s.w, 1e-5f, 0.9f, static_cast<int>(pick(0, 3))};
    const Norm* in = norm.n * norm.size > 1 && pick(0, 1) ? &norm : nullptr;
    std::snprintf(shape, sizeof shape,
                  "pool n %d c %d h %d w %d k %dx%d s %dx%d p %dx%d, average: %d, after a "
                  "normalisation: %d",
                  (int)s.n, (int)s.c, (int)s.h, (int)s.w, s.kernel_h, s.kernel_w, s.stride_h,
                  s.stride_w, s.pad_h, s.pad_w, s.average, in != nullptr);
    const int64_t planes = s.n * s.c, count = planes * norm.size;
    const int64_t outputs = planes * s.out_h * s.out_w;
    const Array x = filled(count, kind), dy = filled(outputs, kind);
    const Array gamma = filled(s.c, kind), beta = filled(s.c, kind), mean(s.c), inverse(s.c);
    const Array rest(s.c, 0.0f), more(s.c, 1.0f), read(count), y(outputs), dx(count);
    const Array dgamma(s.c), dbeta(s.c);
    if (in) norm_forward(x, gamma, beta, rest, more, read, mean, inverse, &norm);
    pool_forward(x, gamma, beta, mean, inverse, y, &s, in);
    pool_backward(x, gamma, beta, mean, inverse, dy, dx, dgamma, dbeta, &s, in);
    calls += 2;
    if (kind != ORDINARY) return;
    const Array& seen = in ? read : x;
    Sums ys(outputs), dxs(count);
    for (int64_t plane = 0, at = 0; plane < planes; ++plane)
        for (int64_t r = 0; r < s.out_h; ++r)
            for (int64_t q = 0; q < s.out_w; ++q, ++at) {
                std::vector<int64_t> window;
                for (int64_t a = 0; a < s.kernel_h; ++a)
                    for (int64_t b = 0; b < s.kernel_w; ++b) {
                        const int64_t i = r * s.stride_h + a - s.pad_h;
                        const int64_t j = q * s.stride_w + b - s.pad_w;
                        if (i >= 0 && i < s.h && j >= 0 && j < s.w)
                            window.push_back((plane * s.h + i) * s.w + j);
                    }
                if (!s.average) {
                    const int64_t first = *std::max_element(
                        window.begin(), window.end(),
                        [&](int64_t i, int64_t j) { return seen[i] < seen[j]; });
                    ys.add(at, seen[first]), dxs.add(first, dy[at]);
                }
                const double share = 1 / static_cast<double>(window.size());
                for (int64_t i : window)
                    if (s.average) ys.add(at, seen[i] * share), dxs.add(i, dy[at] * share);
            }
    compare("output", y, ys);
    compare("gradient of the input", dx, dxs);
    if (!in) return;
    check_sums_before(x, gamma, beta, mean, inverse, dx, dgamma, dbeta, norm);
}

// Two tensors, of planes as they are or of what a normalisation has yet to make of them; the first
// may be half of the channels of another.
static void try_shuffle(Values kind) {
    Norm norm;
    norm.size = pick(0, 2) ? pick(1, 400) : 1;
    norm.n = pick(norm.size == 1 ? 2 : 1, 9);
    norm.c = channels(std::max<int64_t>(1, 50000 / (norm.n * norm.size)));
    norm.epsilon = 1e-5f, norm.momentum = 0.9f, norm.activation = pick(0, 3);
    const Shuffle s{{norm.n, norm.c, norm.size}, pick(0, 1)};
    const int64_t image = norm.c * norm.size, count = norm.n * image;
    const Norm* ins[] = {s.halved || pick(0, 1) ? nullptr : &norm, pick(0, 1) ? &norm : nullptr};
    std::snprintf(shape, sizeof shape, "shuffle n %d c %d size %d, halved %d, normalised %d %d",
                  static_cast<int>(norm.n), static_cast<int>(norm.c), static_cast<int>(norm.size),
                  static_cast<int>(s.halved), ins[0] != nullptr, ins[1] != nullptr);
    const Array whole = filled(2 * count, kind), half(count), dy = filled(2 * count, kind);
    half_forward(whole, half, &s.half);
    const Array other = filled(count, kind), y(2 * count), dx(2 * count);
    const Array& two = s.halved ? half : other;
    const Array single = filled(count, kind);
    const Array& one = s.halved ? whole : single;
    const Array gamma = filled(norm.c, kind), beta = filled(norm.c, kind);
    const Array rest(norm.c, 0.0f), more(norm.c, 1.0f), mean(norm.c), inverse(norm.c), read(count);
    const Array means(norm.c), inverses(norm.c), seen(count);
    norm_forward(two, gamma, beta, rest, more, read, mean, inverse, &norm);
    norm_forward(single, gamma, beta, rest, more, seen, means, inverses, &norm);
    shuffle_forward(one, gamma, beta, means, inverses, two, gamma, beta, mean, inverse, y, &s, ins[0],
                    ins[1]);
    const Array done(count), dtwo(count), dgamma(norm.c), dbeta(norm.c);
    if (!s.halved)
        shuffle_backward(one, gamma, beta, means, inverses, dy, done, dgamma, dbeta, &s.half, ins[0]);
    shuffle_backward(two, gamma, beta, mean, inverse, dy + norm.size, dtwo, dgamma, dbeta, &s.half,
                     ins[1]);
    half_backward(dy, dtwo, dx, &s.half);
    half_backward(nullptr, dtwo, dx, &s.half);
    half_backward(dy, dtwo, dx, &s.half);
    calls += 7;
    if (kind != ORDINARY) return;
    Sums ys(2 * count), dtwos(count), dxs(2 * count);
    for (int64_t p = 0; p < norm.n * norm.c; ++p)
        for (int64_t i = 0; i < norm.size; ++i) {
            const int64_t n = p / norm.c, c = p % norm.c, own = p * norm.size + i;
            const int64_t turn = 2 * p * norm.size + i, low = n * 2 * image + c * norm.size + i;
            ys.add(turn, ins[0] ? seen[own] : s.halved ? whole[low] : single[own]);
            ys.add(turn + norm.size, ins[1] ? read[own] : s.halved ? whole[low + image] : two[own]);
            dtwos.add(own, dy[turn + norm.size]);
            dxs.add(low, dy[turn]);
            dxs.add(low + image, dy[turn + norm.size]);
        }
    compare("output", y, ys);
    compare("gradient of the second", dtwo, dtwos);
    compare("gradient of the halves", dx, dxs);
    if (!ins[1]) return;
    check_sums_before(two, gamma, beta, mean, inverse, dtwo, dgamma, dbeta, norm);
}

// Terms of planes as they are and of what normalisations have yet to make of them.
static void try_sum(Values kind) {
    Norm norm;
    norm.size = pick(0, 2) ? pick(1, 400) : 1;
    norm.n = pick(norm.size == 1 ? 2 : 1, 5);
    norm.c = channels(std::max<int64_t>(1, 20000 / (norm.n * norm.size)));
    norm.epsilon = 1e-5f, norm.momentum = 0.9f;
    Sum s{{norm.n, norm.c, norm.size}, pick(1, 6), static_cast<int>(pick(0, 3)), 1, 0, 1, 0};
    const bool stored = pick(0, 1) || s.activation;  // the sum, apart from what is made of it
    if (stored) s.before_scale = 1.5f, s.before_shift = 0.2f, s.behind_scale = -0.5f;
    std::snprintf(shape, sizeof shape, "sum of %d n %d c %d size %d act %d stored %d",
                  static_cast<int>(s.terms), static_cast<int>(norm.n), static_cast<int>(norm.c),
                  static_cast<int>(norm.size), s.activation, stored);
    const int64_t count = norm.n * norm.c * norm.size;
    std::vector<Array> all;
    std::vector<const float*> parts, seen;
    std::vector<float*> learnt;
    std::vector<int64_t> own;
    std::vector<Norm> norms;
    const auto next = [&](Array array) {
        all.push_back(std::move(array));
        return static_cast<float*>(all.back());
    };
    for (int64_t k = 0; k < s.terms; ++k) {
        const float* x = next(filled(count, kind));
        const bool normalised = pick(0, 2) > 0;
        norm.activation = static_cast<int>(pick(0, 3));
        own.push_back(normalised ? norm.activation : 0);
        norms.push_back(norm);
        float *gamma = next(filled(norm.c, kind)), *beta = next(filled(norm.c, kind));
        float *mean = next(Array(norm.c)), *inverse = next(Array(norm.c)), *y = next(Array(count));
        norm_forward(x, gamma, beta, next(Array(norm.c, 0.0f)), next(Array(norm.c, 1.0f)), y, mean,
                     inverse, &norm);
        seen.push_back(normalised ? y : x);
        for (const float* part : {x, static_cast<const float*>(gamma), static_cast<const float*>(beta),
                                  static_cast<const float*>(mean), static_cast<const float*>(inverse)})
            parts.push_back(part == x || normalised ? part : nullptr);
        for (int i = 0; i < 2; ++i) learnt.push_back(normalised ? next(Array(norm.c)) : nullptr);
    }
    const Array dy = filled(count, kind), y(count), apart(count), dz(count), scalars(4);
    float* z = stored ? apart : y;
    sum_forward(parts.data(), own.data(), z, y, &s);
    sum_backward(parts.data(), own.data(), learnt.data(), z, dy, dz, scalars, &s);
    calls += 2;
    if (kind != ORDINARY) return;
    Sums sums(count);
    for (const float* one : seen)
        for (int64_t i = 0; i < count; ++i) sums.add(i, one[i]);
    const Array sum(count);
    std::copy_n(z, count, static_cast<float*>(sum));
    compare("sum", sum, sums);
    if (s.activation) return;
    Sums ys(count), dzs(count), four(4);
    for (int64_t i = 0; i < count; ++i) {
        ys.add(i, (double(z[i]) * s.before_scale + s.before_shift) * s.behind_scale);
        ys.size[i] += std::abs(z[i]) + 1;
        dzs.add(i, double(dy[i]) * s.behind_scale * s.before_scale);
        four.add(0, double(dy[i]) * s.behind_scale * z[i]);
        four.add(1, double(dy[i]) * s.behind_scale);
        four.add(2, double(dy[i]) * (double(z[i]) * s.before_scale + s.before_shift));
        four.add(3, dy[i]);
    }
    compare("output", y, ys);
    compare("gradient of the sum", dz, dzs);
    compare("gradients of the numbers", scalars, four);
    for (int64_t k = 0; k < s.terms; ++k) {
        if (!learnt[2 * k]) continue;
        const float* const* p = &parts[5 * k];
        const Array two(norm.c), three(norm.c), found(norm.c), shift(norm.c);
        norm_sums(p[0], p[1], p[2], p[3], p[4], dz, two, three, &norms[k]);
        Sums scales(norm.c), shifts(norm.c);
        for (int64_t c = 0; c < norm.c; ++c) {
            found[c] = learnt[2 * k][c], shift[c] = learnt[2 * k + 1][c];
            scales.add(c, two[c]), shifts.add(c, three[c]);
            scales.size[c] += static_cast<double>(norm.n * norm.size);
            shifts.size[c] += scales.size[c];
        }
        compare("gradient of a scale", found, scales);
        compare("gradient of a shift", shift, shifts);
    }
}

static void try_entropy(Values kind) {
    const Planes s{pick(1, 3), pick(1, 200), pick(0, 2) ? pick(1, 300) : pick(1, 5)};
    std::snprintf(shape, sizeof shape, "entropy n %d c %d size %d", static_cast<int>(s.n),
                  static_cast<int>(s.c), static_cast<int>(s.size));
    const int64_t pixels = s.n * s.size;
    const Array logits = filled(pixels * s.c, kind), dlosses = filled(pixels, kind);
    const std::unique_ptr<int64_t[]> classes(new int64_t[pixels]);
    for (int64_t i = 0; i < pixels; ++i)  // some are none of the classes
        classes[i] = kind == STRANGE && pick(0, 9) == 0 ? pick(-300, 300) : pick(0, s.c - 1);
    const Array losses(pixels), log_sum(pixels), dlogits(pixels * s.c);
    entropy_forward(logits, classes.get(), losses, log_sum, &s);
    entropy_backward(logits, classes.get(), log_sum, dlosses, dlogits, &s);
    calls += 2;
    if (kind != ORDINARY) return;
    Sums loss(pixels), gradient(pixels * s.c);
    for (int64_t i = 0; i < pixels; ++i) {
        const int64_t corner = i / s.size * s.c * s.size + i % s.size;
        double sum = 0;
        for (int64_t c = 0; c < s.c; ++c) sum += std::exp(double(logits[corner + c * s.size]));
        loss.add(i, std::log(sum));
        loss.add(i, -logits[corner + classes[i] * s.size]);
        for (int64_t c = 0; c < s.c; ++c) {
            const double p = std::exp(double(logits[corner + c * s.size])) / sum;
            gradient.add(corner + c * s.size, dlosses[i] * p);
            if (c == classes[i]) gradient.add(corner + c * s.size, -dlosses[i]);
        }
    }
    compare("losses", losses, loss);
    compare("dlogits", dlogits, gradient);
}

static void try_bilinear(Values kind) {
    const Bilinear s{pick(1, 40), pick(1, 12), pick(1, 12), pick(1, 60), pick(1, 60)};
    std::snprintf(shape, sizeof shape, "bilinear planes %d, %d x %d to %d x %d",
                  static_cast<int>(s.planes), static_cast<int>(s.h), static_cast<int>(s.w),
                  static_cast<int>(s.out_h), static_cast<int>(s.out_w));
    struct Axis {
        std::unique_ptr<int64_t[]> low;
        Array share;
        Axis(int64_t small, int64_t large) : low(new int64_t[large]), share(large) {
            for (int64_t i = 0; i < large; ++i) {
                const float place = float(small - 1) * i / std::max<int64_t>(large - 1, 1);
                low[i] = static_cast<int64_t>(place);
                share[i] = place - low[i];
            }
        }
    };
    const Axis rows(s.h, s.out_h), columns(s.w, s.out_w);
    const Array x = filled(s.planes * s.h * s.w, kind);
    const Array dy = filled(s.planes * s.out_h * s.out_w, kind);
    const Array y(dy.count), dx(x.count);
    bilinear_forward(x, rows.low.get(), rows.share, columns.low.get(), columns.share, y, &s);
    bilinear_backward(dy, rows.low.get(), rows.share, columns.low.get(), columns.share, dx, &s);
    calls += 2;
    if (kind != ORDINARY) return;
    Sums values(dy.count), gradient(x.count);
    for (int64_t at = 0; at < dy.count; ++at) {
        const int64_t plane = at / (s.out_h * s.out_w);
        const int64_t i = at / s.out_w % s.out_h, k = at % s.out_w;
        for (int below = 0; below < 2; ++below)
            for (int right = 0; right < 2; ++right) {
                const int64_t row = std::min(rows.low[i] + below, s.h - 1);
                const int64_t column = std::min(columns.low[k] + right, s.w - 1);
                const double share = (below ? rows.share[i] : 1 - rows.share[i]) *
                                     double(right ? columns.share[k] : 1 - columns.share[k]);
                const int64_t from = (plane * s.h + row) * s.w + column;
                values.add(at, x[from] * share);
                gradient.add(from, dy[at] * share);
            }
    }
    compare("y", y, values);
    compare("dx", dx, gradient);
}

int main(int argc, char** argv) {
    if (argc < 3) return 2;
    const long long first = std::atoll(argv[1]), shapes = std::atoll(argv[2]);
    use_threads(1);
    __sanitizer_set_death_callback([] { std::fprintf(stderr, "seed %lld: %s\n", seed, shape); });
    for (seed = first; seed < first + shapes; ++seed) {
        generator.seed(static_cast<uint64_t>(seed));
        const Values kind = static_cast<Values>(std::max<int64_t>(0, pick(-3, 2)));
        switch (pick(0, 10)) {
            case 0: case 1: try_depthwise(kind); break;
            case 2: case 3: try_dense(kind); break;
            case 4: try_entropy(kind); break;
            case 5: try_bilinear(kind); break;
            case 6: try_attention(kind); break;
            case 7: try_shuffle(kind); break;
            case 8: try_sum(kind); break;
            case 9: try_pool(kind); break;
            default: try_norm(kind);
        }
    }
    std::printf("%d calls\n", calls);
}
