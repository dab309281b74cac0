// Calls every kernel on heap memory of exactly the right size, for the sanitizers to watch, and
// compares with sums in double precision. Built and run by experiments/kernel_fuzz.py.
//
// Arguments: a seed and the number of random shapes. Kernels of 1 to 11, strides of 1 to 4, padding
// of 0 to the kernel's size, each apart in height and width; 1 to 2000 channels, planes of one pixel
// and more; ordinary numbers, denormals, NaN and infinity. Prints how many calls it made; ends with
// status 1 at the first wrong value, which it describes.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <random>
#include <sanitizer/common_interface_defs.h>
#include <vector>

struct Depthwise {
    int64_t n, c, h, w, out_h, out_w;
    int kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w;
};
struct Dense {
    int64_t n, in, h, w, out, out_h, out_w;
    int kernel, stride_h, stride_w, pad;
};
struct Norm {
    int64_t n, c, size;
    float epsilon, momentum;
    int activation;
};
extern "C" {
void use_threads(int);
void depthwise_forward(const float*, const float*, float*, const Depthwise*);
void depthwise_backward(const float*, const float*, const float*, float*, float*, const Depthwise*);
void dense_forward(const float*, const float*, float*, const Dense*);
void dense_backward(const float*, const float*, const float*, float*, float*, const Dense*);
void norm_forward(const float*, const float*, const float*, float*, float*, float*, float*, float*,
                  const Norm*);
void norm_backward(const float*, const float*, const float*, const float*, const float*,
                   const float*, float*, float*, float*, const Norm*);
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

static Array filled(int64_t count, Values kind) {
    Array a(count);
    std::normal_distribution<float> normal;
    const float strange[] = {std::nanf(""), INFINITY, -INFINITY, -0.0f, 3e38f, 1e-45f};
    for (int64_t i = 0; i < count; ++i) {
        a[i] = normal(generator);
        if (kind == DENORMAL) a[i] *= 1e-39f;
        if (kind == STRANGE && pick(0, 9) == 0) a[i] = strange[pick(0, 5)];
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

static void compare(const char* name, const Array& found, const Sums& expected) {
    for (int64_t i = 0; i < found.count; ++i) {
        const double error = std::fabs(found[i] - expected.value[i]);
        if (!(error <= 1e-5 * expected.size[i] + 1e-37)) {
            std::printf("seed %lld: %s, %s: value %lld is %g instead of %g\n", seed, shape,
                        name, static_cast<long long>(i), found[i], expected.value[i]);
            std::exit(1);
        }
    }
}

// Each product of a convolution: the places in the input, the weights and the output.
template <typename Use>
static void each_product(int64_t n, int64_t in, int64_t out, bool depthwise, int64_t h, int64_t w,
                         int64_t out_h, int64_t out_w, int kh, int kw, int sh, int sw, int ph,
                         int pw, const Use& use) {
    for (int64_t i = 0; i < n; ++i)
        for (int64_t d = 0; d < out; ++d)
            for (int64_t c = depthwise ? d : 0; c < (depthwise ? d + 1 : in); ++c)
                for (int64_t y = 0; y < out_h; ++y)
                    for (int64_t x = 0; x < out_w; ++x)
                        for (int a = 0; a < kh; ++a)
                            for (int b = 0; b < kw; ++b) {
                                const int64_t r = y * sh + a - ph, q = x * sw + b - pw;
                                if (r < 0 || r >= h || q < 0 || q >= w) continue;
                                const int64_t kernel = depthwise ? d : d * in + c;
                                use(((i * in + c) * h + r) * w + q, (kernel * kh + a) * kw + b,
                                    ((i * out + d) * out_h + y) * out_w + x);
                            }
}

// Forward and backward of one convolution, against those sums where numbers are ordinary.
template <typename Shape, typename Forward, typename Backward, typename Products>
static void convolution(const Shape& s, int64_t inputs, int64_t weights, int64_t outputs,
                        bool with_dx, Values kind, const Forward& forward, const Backward& backward,
                        const Products& products) {
    const Array x = filled(inputs, kind), k = filled(weights, kind), dy = filled(outputs, kind);
    const Array y(outputs), dx(inputs), dk(weights), again(weights);
    forward(x, k, y, &s);
    backward(x, k, dy, with_dx ? static_cast<float*>(dx) : nullptr, dk, &s);
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
    if (with_dx) compare("gradient of the input", dx, dxs);
    compare("gradient of the weights", dk, dks);
    compare("gradient of the weights alone", again, dks);
}

static int64_t side(int64_t size, int kernel, int stride, int pad) {
    return (size + 2 * pad - kernel) / stride + 1;
}

static int64_t channels(int64_t limit) {  // most often few
    const int64_t highest[] = {4, 20, 70, 2000};
    return std::min(limit, pick(1, highest[pick(0, 3)]));
}

static void try_depthwise(Values kind) {
    Depthwise s;
    s.kernel_h = pick(1, 11), s.kernel_w = pick(0, 2) ? s.kernel_h : pick(1, 11);
    s.stride_h = pick(1, 4), s.stride_w = pick(0, 1) ? s.stride_h : pick(1, 4);
    s.pad_h = pick(0, s.kernel_h), s.pad_w = pick(0, s.kernel_w);
    s.h = pick(std::max(1, s.kernel_h - 2 * s.pad_h), 40);
    s.w = pick(0, 3) ? pick(std::max(1, s.kernel_w - 2 * s.pad_w), 40)
                     : std::max(1, s.kernel_w - 2 * s.pad_w);
    s.out_h = side(s.h, s.kernel_h, s.stride_h, s.pad_h);
    s.out_w = side(s.w, s.kernel_w, s.stride_w, s.pad_w);
    const int64_t plane = s.out_h * s.out_w * s.kernel_h * s.kernel_w + s.h * s.w;
    s.n = pick(1, 11);
    s.c = channels(std::max<int64_t>(1, 300000 / (plane * s.n)));
    std::snprintf(shape, sizeof shape, "depthwise n %d c %d h %d w %d k %dx%d s %dx%d p %dx%d",
                  static_cast<int>(s.n), static_cast<int>(s.c), static_cast<int>(s.h),
                  static_cast<int>(s.w), s.kernel_h, s.kernel_w, s.stride_h, s.stride_w, s.pad_h,
                  s.pad_w);
    convolution(s, s.n * s.c * s.h * s.w, s.c * s.kernel_h * s.kernel_w,
                s.n * s.c * s.out_h * s.out_w, true, kind, depthwise_forward, depthwise_backward,
                [&](const auto& use) {
                    each_product(s.n, s.c, s.c, true, s.h, s.w, s.out_h, s.out_w, s.kernel_h,
                                 s.kernel_w, s.stride_h, s.stride_w, s.pad_h, s.pad_w, use);
                });
}

static void try_dense(Values kind) {
    Dense s;
    const bool pointwise = pick(0, 1);
    s.kernel = pointwise ? 1 : pick(1, 11);
    s.stride_h = pointwise ? 1 : pick(1, 4), s.stride_w = pointwise ? 1 : pick(1, 4);
    s.pad = pointwise ? 0 : pick(0, s.kernel);
    const int64_t least = std::max(1, s.kernel - 2 * s.pad);
    s.h = pick(0, 3) ? pick(least, 24) : least;
    s.w = pick(0, 3) ? pick(least, 40) : least;
    s.out_h = side(s.h, s.kernel, s.stride_h, s.pad);
    s.out_w = side(s.w, s.kernel, s.stride_w, s.pad);
    const int64_t work = s.out_h * s.out_w * s.kernel * s.kernel + s.h * s.w;
    s.n = pick(1, 5);
    s.in = channels(std::max<int64_t>(1, 300000 / (work * s.n)));
    s.out = channels(std::max<int64_t>(1, 300000 / (work * s.n * s.in)));
    std::snprintf(shape, sizeof shape, "dense n %d in %d h %d w %d out %d k %d s %dx%d p %d",
                  static_cast<int>(s.n), static_cast<int>(s.in), static_cast<int>(s.h),
                  static_cast<int>(s.w), static_cast<int>(s.out), s.kernel, s.stride_h, s.stride_w,
                  s.pad);
    const bool with_dx = s.kernel == 1 && s.stride_h == 1 && s.stride_w == 1 && s.pad == 0;
    convolution(s, s.n * s.in * s.h * s.w, s.out * s.in * s.kernel * s.kernel,
                s.n * s.out * s.out_h * s.out_w, with_dx, kind, dense_forward, dense_backward,
                [&](const auto& use) {
                    each_product(s.n, s.in, s.out, false, s.h, s.w, s.out_h, s.out_w, s.kernel,
                                 s.kernel, s.stride_h, s.stride_w, s.pad, s.pad, use);
                });
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

int main(int argc, char** argv) {
    if (argc < 3) return 2;
    const long long first = std::atoll(argv[1]), shapes = std::atoll(argv[2]);
    use_threads(1);
    __sanitizer_set_death_callback([] { std::fprintf(stderr, "seed %lld: %s\n", seed, shape); });
    for (seed = first; seed < first + shapes; ++seed) {
        generator.seed(static_cast<uint64_t>(seed));
        const Values kind = static_cast<Values>(std::max<int64_t>(0, pick(-3, 2)));
        switch (pick(0, 4)) {
            case 0: case 1: try_depthwise(kind); break;
            case 2: case 3: try_dense(kind); break;
            default: try_norm(kind);
        }
    }
    std::printf("%d calls\n", calls);
}
