// Calls every kernel on heap memory of exactly the right size, for the sanitizers to watch.
// Arguments: none. Prints how many calls it made. Built and run by test_kernel_memory.py.
#include <cstdint>
#include <cstdio>
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

static float* filled(int64_t count) {  // new[] puts the guards right at the ends
    float* values = new float[count];
    for (int64_t i = 0; i < count; ++i) values[i] = 0.25f * static_cast<float>(i % 7) - 0.5f;
    return values;
}

struct Memory {
    std::vector<float*> all;
    float* take(int64_t count) {
        all.push_back(filled(count));
        return all.back();
    }
    ~Memory() {
        for (float* values : all) delete[] values;
    }
};

static int64_t side(int64_t size, int kernel, int stride, int pad) {
    return (size + 2 * pad - kernel) / stride + 1;
}

int main() {
    use_threads(1);
    int calls = 0;
    const int64_t sizes[][2] = {{1, 1}, {2, 3}, {7, 7}, {9, 5}, {14, 14}, {33, 30}};
    const int windows[][4] = {  // kernel, stride_h, stride_w, pad
        {1, 1, 1, 0}, {1, 2, 2, 0}, {3, 1, 1, 1}, {3, 2, 2, 1}, {3, 2, 1, 1}, {3, 1, 2, 0},
        {5, 1, 1, 2}, {5, 2, 2, 2}, {5, 2, 1, 2}, {7, 1, 1, 3}, {3, 3, 3, 1}, {2, 2, 2, 0}};
    for (auto& size : sizes)
        for (auto& v : windows) {
            int64_t h = size[0], w = size[1], oh = side(h, v[0], v[1], v[3]),
                    ow = side(w, v[0], v[2], v[3]);
            if (h + 2 * v[3] < v[0] || w + 2 * v[3] < v[0]) continue;
            for (int64_t n : {1, 3, 9}) {
                Memory m;
                Depthwise s{n, 3, h, w, oh, ow, v[0], v[0], v[1], v[2], v[3], v[3]};
                float *x = m.take(n * 3 * h * w), *k = m.take(3 * v[0] * v[0]);
                float *y = m.take(n * 3 * oh * ow), *dx = m.take(n * 3 * h * w);
                float* dk = m.take(3 * v[0] * v[0]);
                depthwise_forward(x, k, y, &s);
                depthwise_backward(x, k, y, dx, dk, &s);
                depthwise_backward(x, k, y, nullptr, dk, &s);
                for (int64_t out : {1, 6, 13}) {
                    Dense d{n, 3, h, w, out, oh, ow, v[0], v[1], v[2], v[3]};
                    float *full = m.take(out * 3 * v[0] * v[0]), *z = m.take(n * out * oh * ow);
                    float* dfull = m.take(out * 3 * v[0] * v[0]);
                    bool pointwise = v[0] == 1 && v[1] == 1 && v[2] == 1;
                    dense_forward(x, full, z, &d);
                    dense_backward(x, full, z, pointwise ? dx : nullptr, dfull, &d);
                    calls += 2;
                }
                calls += 3;
            }
        }
    for (auto& size : sizes)
        for (int act = 0; act < 4; ++act)
            for (int64_t n : {1, 5}) {
                Memory m;
                Norm s{n, 3, size[0] * size[1], 1e-5f, 0.9f, act};
                int64_t count = n * 3 * s.size;
                float *x = m.take(count), *y = m.take(count), *dx = m.take(count);
                float *g = m.take(3), *b = m.take(3), *rm = m.take(3), *rv = m.take(3);
                float *mean = m.take(3), *inv = m.take(3), *dg = m.take(3), *db = m.take(3);
                norm_forward(x, g, b, rm, rv, y, mean, inv, &s);
                norm_backward(x, g, b, mean, inv, y, dx, dg, db, &s);
                norm_backward(x, g, b, mean, inv, y, nullptr, dg, db, &s);
                calls += 3;
            }
    std::printf("%d calls\n", calls);
}
