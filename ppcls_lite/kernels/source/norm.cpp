// Batch normalisation in training and the activation behind it, forward and backward: float32, NCHW.
//
// Statistics are taken plane by plane in two passes while the plane is in the cache, and put
// together in double precision (Chan, Golub, LeVeque 1983), in a fixed order: results do not depend
// on the number of threads. Nothing but the input is kept for the backward pass, which computes the
// normalised value again. Comparisons are written so that NaN comes through.

#include <cmath>

#include "norm.h"
#include "vectors.h"

namespace {

typedef NormShape Norm;

// What each channel has, as often as a plane has pixels.
template <typename Of>
std::vector<float> for_each_pixel(int64_t channels, int64_t size, const Of& of) {
    std::vector<float> values(channels * size);
    for (int64_t c = 0; c < channels; ++c)
        for (int64_t i = 0; i < size; ++i) values[c * size + i] = of(c);
    return values;
}

ChannelOf<Vec> in_all_lanes(const Channel& own) {
    return {splat(own.mean), splat(own.scale), splat(own.shift), splat(own.plain),
            splat(own.weighted)};
}

// The last `count` pixels behind whole vectors: in the last lanes where there was such a vector
// (`some`), else in the first ones. The other lanes are anything.
inline Vec rest_of(const float* from, int64_t count, bool some) {
    if (some) return load(from + count - LANES);
    Vec found{};
    std::memcpy(&found, from, 4 * count);
    return found;
}

// The same back: what is before them was formed of the same.
inline void store_rest(float* to, int64_t count, bool some, Vec value) {
    if (some)
        store(to + count - LANES, value);
    else
        std::memcpy(to, &value, 4 * count);
}

// Writes what `form` makes of each vector of a plane; form(at): at(x) is the vector of x there.
template <typename Form>
void form_plane(int64_t size, float* to, const Form& form) {
    int64_t i = 0;
    for (; i + LANES <= size; i += LANES)
        store(to + i, form([&](const float* from) { return load(from + i); }));
    if (const int64_t left = size - i; left > 0) {
        const bool some = i > 0;
        const auto rest = [&](const float* from) { return rest_of(from + i, left, some); };
        store_rest(to + i, left, some, form(rest));
    }
}

template <int A>
void plane_values(const float* in, int64_t size, const Channel& own, float* to) {
    const ChannelOf<Vec> here = in_all_lanes(own);
    form_plane(size, to, [&](const auto& at) { return value_of<A>(at(in), here); });
}

// The same for pixels [first, first + count) of an image whose planes are small; it begins at `in`.
template <int A>
void image_values(const float* __restrict in, const Normalised& s, int64_t first, int64_t count,
                  float* __restrict to) {
    const float *m = &s.mean[first], *scale = &s.scale[first], *shift = &s.shift[first];
    in += first;
#pragma omp simd
    for (int64_t i = 0; i < count; ++i)
        to[i] = value_of<A>(in[i], Channel{m[i], scale[i], shift[i], 0, 0});
}

// Adds to two vectors at `to` what is summed over some pixels of a plane: the gradient, and its
// product with the centred input.
template <int A>
void plane_sums(const float* in, const float* out, int64_t size, const Channel& own, float* to) {
    const ChannelOf<Vec> here = in_all_lanes(own);
    Vec plain[2] = {load(to), Vec{}}, weighted[2] = {load(to + LANES), Vec{}};
    const auto add = [&](int k, Vec x, Vec dy) {
        const Vec centred = x - here.mean;
        const Vec dz = dy * slope<A>(centred * here.scale + here.shift);
        plain[k] += dz;
        weighted[k] += dz * centred;
    };
    int64_t i = 0;
    for (; i + 2 * LANES <= size; i += 2 * LANES) {
        add(0, load(in + i), load(out + i));
        add(1, load(in + i + LANES), load(out + i + LANES));
    }
    if (i + LANES <= size) {
        add(0, load(in + i), load(out + i));
        i += LANES;
    }
    if (const int64_t left = size - i; left > 0) {
        const bool some = i > 0;
        Mask counted;
        for (int k = 0; k < LANES; ++k) counted[k] = (some ? k >= LANES - left : k < left) ? -1 : 0;
        const Vec dy = rest_of(out + i, left, some);
        add(1, rest_of(in + i, left, some), (Vec)((Mask)dy & counted));
    }
    store(to, plain[0] + plain[1]);
    store(to + LANES, weighted[0] + weighted[1]);
}

// The same for all planes of an image whose planes are small; `products` is scratch.
template <int A>
void image_sums(const float* __restrict in, const float* __restrict out, const Normalised& s,
                float* __restrict products, double* to) {
    const int64_t floats = s.channels * s.size;
    const float *m = s.mean.data(), *scale = s.scale.data(), *shift = s.shift.data();
    float* __restrict slopes = products + floats;
#pragma omp simd
    for (int64_t i = 0; i < floats; ++i) {
        const float centred = in[i] - m[i];
        slopes[i] = out[i] * slope<A>(centred * scale[i] + shift[i]);
        products[i] = slopes[i] * centred;
    }
    for (int64_t c = 0; c < s.channels; ++c) {
        float plain = 0, weighted = 0;
        for (int64_t i = c * s.size; i < (c + 1) * s.size; ++i) {
            plain += slopes[i];
            weighted += products[i];
        }
        to[2 * c] = plain;
        to[2 * c + 1] = weighted;
    }
}

// The gradient of pixels [first, first + count) of an image, which begins at `in` and `out`.
template <int A>
void image_gradient(const float* __restrict in, const float* __restrict out, const Slopes& s,
                    int64_t first, int64_t count, float* __restrict to) {
    const Normalised& of = s.of;
    const float *m = &of.mean[first], *scale = &of.scale[first], *shift = &of.shift[first];
    const float *plain = &s.plain[first], *weighted = &s.weighted[first];
    in += first, out += first;
#pragma omp simd
    for (int64_t i = 0; i < count; ++i)
        to[i] = gradient_of<A>(in[i], out[i],
                               Channel{m[i], scale[i], shift[i], plain[i], weighted[i]});
}

template <int A>
void plane_gradient(const float* in, const float* out, int64_t size, const Channel& own, float* to) {
    const ChannelOf<Vec> here = in_all_lanes(own);
    form_plane(size, to, [&](const auto& at) { return gradient_of<A>(at(in), at(out), here); });
}

}  // namespace

void Moments::add(const Moments& other) {
    if (other.count == 0) return;
    const double all = count + other.count, apart = other.mean - mean;
    mean += apart * (other.count / all);
    squares += other.squares + apart * apart * (count * other.count / all);
    count = all;
}

Moments moments_of(const float* values, int64_t size) {
    const double count = static_cast<double>(size);
    const int64_t whole = size / LANES * LANES;
    float sum = 0, squares = 0, rest = 0;  // of what is left behind whole vectors
    for (int64_t i = whole; i < size; ++i) sum += values[i];
    Vec sums[4] = {};  // four, not to wait for each other
    const auto each = [&](const auto& add) {
        int64_t i = 0;
        for (; i + 4 * LANES <= whole; i += 4 * LANES)
#pragma GCC unroll 4
            for (int k = 0; k < 4; ++k) add(k, load(values + i + k * LANES));
        for (; i < whole; i += LANES) add(0, load(values + i));
    };
    if (whole > 0) {
        each([&](int k, Vec value) { sums[k] += value; });
        sum += total(sums[0] + sums[1] + (sums[2] + sums[3]));
    }
    const float m = sum / static_cast<float>(size);
    for (int64_t i = whole; i < size; ++i) {
        squares += (values[i] - m) * (values[i] - m);
        rest += values[i] - m;
    }
    if (whole > 0) {
        Vec of_squares[4] = {}, rests[4] = {};
        each([&](int k, Vec value) {
            of_squares[k] += (value - m) * (value - m);
            rests[k] += value - m;
        });
        squares += total(of_squares[0] + of_squares[1] + (of_squares[2] + of_squares[3]));
        rest += total(rests[0] + rests[1] + (rests[2] + rests[3]));
    }
    return moments_about(m, rest, squares, count);
}

void settle(const std::vector<Moments>& parts, int64_t groups, const NormShape& s,
            const NormState& state) {
    for (int64_t c = 0; c < s.c; ++c) {
        double mean = 0, squares = 0;
        for (int64_t g = 0; g < groups; ++g)
            mean += parts[g * s.c + c].mean * parts[g * s.c + c].count;
        mean /= static_cast<double>(s.n * s.size);
        for (int64_t g = 0; g < groups; ++g) {
            const Moments& own = parts[g * s.c + c];
            squares += own.squares + (own.mean - mean) * (own.mean - mean) * own.count;
        }
        const double variance = squares / static_cast<double>(s.n * s.size);
        state.mean[c] = static_cast<float>(mean);
        state.inverse[c] = static_cast<float>(1 / std::sqrt(variance + s.epsilon));
        const float keep = s.momentum;
        state.running_mean[c] = state.running_mean[c] * keep + state.mean[c] * (1 - keep);
        state.running_variance[c] =
            state.running_variance[c] * keep + static_cast<float>(variance) * (1 - keep);
    }
}

std::vector<Moments> planes_moments(const float* x, const NormShape& s) {
    std::vector<Moments> parts(s.n * s.c);
#pragma omp parallel for schedule(static) num_threads(team(8 * s.n * s.c * s.size))
    for (int64_t plane = 0; plane < s.n * s.c; ++plane)
        parts[plane] = moments_of(x + plane * s.size, s.size);
    return parts;
}

Normalised::Normalised(const float* x, const NormShape& s, const float* gamma, const float* beta,
                       const float* mean, const float* inverse)
    : Formed<Normalised>{s.c, s.size}, x(x), activation(s.activation), of(s.c) {
    for (int64_t c = 0; c < s.c; ++c) of[c] = {mean[c], gamma[c] * inverse[c], beta[c], 0, 0};
    if (!small()) return;
    this->mean = for_each_pixel(channels, size, [&](int64_t c) { return of[c].mean; });
    scale = for_each_pixel(channels, size, [&](int64_t c) { return of[c].scale; });
    shift = for_each_pixel(channels, size, [&](int64_t c) { return of[c].shift; });
}

void Normalised::write(int64_t plane, int64_t first, int64_t count, float* to) const {
    const auto values = FOR_ACTIVATION(plane_values, activation);
    values(x + plane * size + first, count, of[plane % channels], to);
}

void Normalised::write_planes(int64_t first, int64_t planes, float* to) const {
    if (!small()) {
        for (int64_t i = 0; i < planes; ++i) write(first + i, 0, size, to + i * size);
        return;
    }
    const auto image = FOR_ACTIVATION(image_values, activation);
    for (int64_t i = 0; i < planes;) {
        const int64_t c = (first + i) % channels, some = std::min(planes - i, channels - c);
        image(x + (first + i - c) * size, *this, c * size, some * size, to + i * size);
        i += some;
    }
}

void Normalised::add_lanes(const float* dy, int64_t plane, int64_t first, int64_t count,
                           float* to) const {
    const auto sums = FOR_ACTIVATION(plane_sums, activation);
    const int64_t at = plane * size + first;
    sums(x + at, dy + at, count, of[plane % channels], to);
}

void Normalised::add_sums(const float* dy, int64_t plane, int64_t first, int64_t count,
                          double* to) const {
    float lanes[2 * LANES] = {};
    add_lanes(dy, plane, first, count, lanes);
    to[0] += total(load(lanes));
    to[1] += total(load(lanes + LANES));
}

Slopes::Slopes(const Normalised& given, int64_t n, const float* dy, const float* inverse,
               const float* dgamma, const float* dbeta)
    : Formed<Slopes>{given.channels, given.size}, of(given), dy(dy) {
    const double count = static_cast<double>(n * size);
    for (int64_t c = 0; c < channels; ++c) {
        of.of[c].plain = static_cast<float>(dbeta[c] / count);
        of.of[c].weighted = static_cast<float>(dgamma[c] / count * inverse[c]);
    }
    if (!small()) return;
    plain = for_each_pixel(channels, size, [&](int64_t c) { return of.of[c].plain; });
    weighted = for_each_pixel(channels, size, [&](int64_t c) { return of.of[c].weighted; });
}

void Slopes::write_planes(int64_t first, int64_t planes, float* to) const {
    if (!small()) {
        for (int64_t i = 0; i < planes; ++i) write(first + i, 0, size, to + i * size);
        return;
    }
    const auto image = FOR_ACTIVATION(image_gradient, of.activation);
    for (int64_t i = 0; i < planes;) {
        const int64_t c = (first + i) % channels, some = std::min(planes - i, channels - c);
        const int64_t at = (first + i - c) * size;
        image(of.x + at, dy + at, *this, c * size, some * size, to + i * size);
        i += some;
    }
}

void Slopes::write(int64_t plane, int64_t first, int64_t count, float* to) const {
    const auto gradient = FOR_ACTIVATION(plane_gradient, of.activation);
    const int64_t at = plane * size + first;
    gradient(of.x + at, dy + at, count, of.of[plane % channels], to);
}

void settle_sums(const double* sums, int64_t groups, int64_t channels, const float* inverse,
                 float* dgamma, float* dbeta) {
    for (int64_t c = 0; c < channels; ++c) {
        double plain = 0, weighted = 0;
        for (int64_t g = 0; g < groups; ++g) {
            plain += sums[2 * (g * channels + c)];
            weighted += sums[2 * (g * channels + c) + 1] * inverse[c];
        }
        dbeta[c] = static_cast<float>(plain);
        dgamma[c] = static_cast<float>(weighted);
    }
}

void batch_sums(const Normalised& of, int64_t n, const float* dy, const float* inverse,
                float* dgamma, float* dbeta) {
    const int64_t planes = n * of.channels;
    std::vector<double> sums(2 * planes);
    if (of.small()) {
        const auto image = FOR_ACTIVATION(image_sums, of.activation);
        std::vector<float> products(2 * of.channels * of.size);
        for (int64_t i = 0; i < n; ++i) {
            const int64_t at = i * of.channels * of.size;
            image(of.x + at, dy + at, of, products.data(), &sums[2 * i * of.channels]);
        }
    } else {
#pragma omp parallel for schedule(static) num_threads(team(8 * planes * of.size))
        for (int64_t plane = 0; plane < planes; ++plane)
            of.add_sums(dy, plane, 0, of.size, &sums[2 * plane]);
    }
    settle_sums(sums.data(), n, of.channels, inverse, dgamma, dbeta);
}

extern "C" {

// y = activation(batch_norm(x)); writes the batch's mean and 1 / sqrt(variance + epsilon) (c,) and
// moves the running statistics by 1 - momentum.
void norm_forward(const float* x, const float* gamma, const float* beta, float* running_mean,
                  float* running_variance, float* y, float* mean, float* inverse,
                  const Norm* shape) {
    const Norm& s = *shape;
    settle(planes_moments(x, s), s.n, s, {running_mean, running_variance, mean, inverse});
    norm_values(x, gamma, beta, mean, inverse, y, shape);
}

// Gradients of x (null: not wanted), gamma and beta from that of y.
void norm_backward(const float* x, const float* gamma, const float* beta, const float* mean,
                   const float* inverse, const float* dy, float* dx, float* dgamma, float* dbeta,
                   const Norm* shape) {
    norm_sums(x, gamma, beta, mean, inverse, dy, dgamma, dbeta, shape);
    if (!dx) return;
    const Normalised y(x, *shape, gamma, beta, mean, inverse);
    Slopes(y, shape->n, dy, inverse, dgamma, dbeta).write_all(shape->n, dx);
}

// The two halves of these: the values from statistics that are known, and the gradients of gamma
// and beta alone.
void norm_values(const float* x, const float* gamma, const float* beta, const float* mean,
                 const float* inverse, float* y, const Norm* shape) {
    Normalised(x, *shape, gamma, beta, mean, inverse).write_all(shape->n, y);
}

void norm_sums(const float* x, const float* gamma, const float* beta, const float* mean,
               const float* inverse, const float* dy, float* dgamma, float* dbeta,
               const Norm* shape) {
    const Normalised y(x, *shape, gamma, beta, mean, inverse);
    batch_sums(y, shape->n, dy, inverse, dgamma, dbeta);
}

}  // extern "C"
