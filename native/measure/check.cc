#include "measure/check.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include "model/pack.h"

namespace itera {

namespace {

constexpr double kFloat = 2e-6;  // sums in another order, fused multiply-adds
// One number in thousands may round to the next integer, which is 1/127 of its block's largest.
constexpr double kRounding = 2e-3;

using Numbers = std::vector<float>;

class Checker {
  public:
    explicit Checker(const Kernels &kernels) : portable_(*kernels_named("portable")), k_(kernels) {}

    std::vector<KernelCheck> run() {
        for (const TensorType type : {TensorType::F32, TensorType::F16, TensorType::BF16,
                                      TensorType::Q8_0, TensorType::Q4_0})
            matmul(type);
        quantize();
        elementwise();
        ssm();
        for (const size_t length : {1, 15, 16, 17, 130, 700}) attention(length);
        search();
        return std::move(found_);
    }

  private:
    // Room for a whole vector after the last number, as the kernels are promised.
    Numbers random(size_t n, float scale = 1) {
        Numbers out(n + 32);
        std::normal_distribution<float> normal(0, scale);
        for (float &x : out) x = normal(generator_);
        return out;
    }

    void compare(const std::string &name, const float *wanted, const float *got, size_t n,
                 double allowed = kFloat) {
        double largest = 1e-30, difference = 0;
        for (size_t i = 0; i < n; i++) {
            largest = std::max(largest, double(std::fabs(wanted[i])));
            const double d = std::fabs(double(wanted[i]) - double(got[i]));
            difference = d > difference || d != d ? d : difference;
        }
        difference /= largest;
        for (KernelCheck &check : found_)
            if (check.kernel == name) {
                if (!(difference <= check.difference)) check.difference = difference;
                return;
            }
        found_.push_back({name, difference, allowed});
    }

    // A tensor as a file would hold it, of random bits with sensible scales.
    std::vector<std::byte> stored(TensorType type, uint32_t rows, uint32_t columns) {
        const uint32_t blocks = columns / kBlock;
        std::vector<std::byte> out;
        const auto put = [&](const void *data, size_t n) {
            const auto *bytes = static_cast<const std::byte *>(data);
            out.insert(out.end(), bytes, bytes + n);
        };
        for (uint32_t r = 0; r < rows; r++) {
            if (type == TensorType::Q8_0 || type == TensorType::Q4_0) {
                for (uint32_t b = 0; b < blocks; b++) {
                    const auto scale = uint16_t(0x2000 + generator_() % 0x800);  // about 1/100
                    put(&scale, 2);
                    for (int i = 0; i < (type == TensorType::Q8_0 ? 32 : 16); i++) {
                        const auto byte = uint8_t(generator_());
                        put(&byte, 1);
                    }
                }
                continue;
            }
            const Numbers row = random(columns, 0.1f);
            for (uint32_t c = 0; c < columns; c++) {
                uint32_t bits;
                std::memcpy(&bits, &row[c], 4);
                const auto brain = uint16_t(bits >> 16);
                const auto half = uint16_t(0x2c00 + generator_() % 0x800 + (bits >> 31 << 15));
                if (type == TensorType::F32) put(&bits, 4);
                if (type == TensorType::F16) put(&half, 2);
                if (type == TensorType::BF16) put(&brain, 2);
            }
        }
        return out;
    }

    // The input rows of a product: floats, and the same quantised by the portable kernels.
    struct Input {
        Numbers x, scales;
        std::vector<int8_t> q;
        std::vector<int32_t> sums;
    };
    Input input(uint32_t n, uint32_t columns) {
        const size_t stride = (columns + 31) / 32 * 32, total = n * stride;
        Input in{random(total), Numbers(total / 32 + 32), std::vector<int8_t>(total + 64),
                 std::vector<int32_t>(total / 32 + 32)};
        portable_.quantize(in.x.data(), total, in.q.data(), in.scales.data(), in.sums.data());
        return in;
    }

    void matmul(TensorType type) {
        const bool whole_blocks = type == TensorType::Q8_0 || type == TensorType::Q4_0;
        const uint32_t odd = whole_blocks ? 64 : 45;
        const uint32_t shapes[][2] = {{24, 128}, {64, 32}, {100, 96}, {7, odd}};
        for (const auto &[rows, columns] : shapes) {
            const std::vector<std::byte> bytes = stored(type, rows, columns);
            const Tensor tensor{"check", type, {1, 1, rows, columns}, bytes};
            Arena ours(packed_bytes(tensor) + 64), theirs(packed_bytes(tensor) + 64);
            const Matrix a = pack(tensor, theirs, portable_), b = pack(tensor, ours, k_);
            for (const uint32_t n : {1u, 2u, 9u, 19u}) {
                const Input in = input(n, columns);
                const size_t stride = a.padded_rows();
                const Rows x{in.x.data(), (columns + 31) / 32 * 32, in.q.data(), in.scales.data(),
                             in.sums.data(), nullptr, n};
                Numbers wanted(n * stride), got(n * stride);
                portable_.matmul(a, x, wanted.data(), stride);
                k_.matmul(b, x, got.data(), stride);
                compare(std::string("matmul ") + type_name(type), wanted.data(), got.data(),
                        wanted.size());
                Numbers one(stride);  // the last row alone: the same bits
                k_.matmul(b, x.slice(n - 1, 1), one.data(), stride);
                compare(std::string("matmul of one row, ") + type_name(type),
                        got.data() + (n - 1) * stride, one.data(), stride, 0);
            }
        }
    }

    void quantize() {
        const size_t n = 32 * 37;
        Numbers x = random(n), wanted(n), got(n);
        std::fill_n(x.data() + 64, 32, 0.0f);
        for (const auto &[kernels, out] : {std::pair{&portable_, &wanted}, {&k_, &got}}) {
            std::vector<int8_t> q(n);
            Numbers scales(n / 32);
            std::vector<int32_t> sums(n / 32);
            kernels->quantize(x.data(), n, q.data(), scales.data(), sums.data());
            for (size_t i = 0; i < n; i++) {
                (*out)[i] = float(q[i]) * scales[i / 32];
                sums[i / 32] -= q[i];
            }
            for (const int32_t rest : sums)
                if (rest) (*out)[0] = NAN;  // a sum that isn't that of its integers
        }
        compare("quantize", wanted.data(), got.data(), n, 1.0 / 127);
    }

    void elementwise() {
        const size_t n = 96;
        const Numbers a = random(n, 4), b = random(n), c = random(n), d = random(4 * n);
        const auto both = [&](const std::string &name, size_t size, auto &&run) {
            Numbers wanted = random(size), got = wanted;
            run(portable_, wanted.data());
            run(k_, got.data());
            compare(name, wanted.data(), got.data(), size);
        };
        both("gated_silu", n, [&](const Kernels &k, float *y) {
            k.gated_silu(a.data(), b.data(), n, y);
        });
        both("axpy", n, [&](const Kernels &k, float *y) { k.axpy(0.7f, a.data(), n, y); });
        for (const size_t taps : {2, 3, 4})
            both("convolve", 80, [&](const Kernels &k, float *y) {
                const float *window[] = {a.data(), b.data(), c.data(), a.data() + 16};
                k.convolve(window, d.data(), b.data(), taps, 80, y);
            });
        both("add_norm", 2 * n, [&](const Kernels &k, float *y) {
            std::copy_n(a.data(), n, y);
            k.add_norm(y, b.data(), 0.5f, c.data(), 1e-5f, n, y + n);
        });
        both("norm", 2 * n, [&](const Kernels &k, float *y) {
            std::copy_n(a.data(), n, y);
            k.add_norm(y, nullptr, 1, c.data(), 1e-5f, n, y + n);
        });
        both("rotate", 48, [&](const Kernels &k, float *y) {
            k.rotate(y, a.data(), b.data(), 48);
        });
        both("log_sum_exp", 1, [&](const Kernels &k, float *y) {
            *y = k.log_sum_exp(a.data(), 93);
        });
    }

    void ssm() {
        for (const auto &[heads, dim, states] :
             {std::tuple{3, 32, 8}, {17, 16, 5}, {2, 64, 128}, {1, 16, 1}}) {
            const size_t width = size_t(heads * dim), memory = width * size_t(states);
            const Numbers z = random(width), u = random(width), B = random(size_t(states)),
                          C = random(size_t(states)), dt = random(size_t(heads), 4),
                          bias = random(size_t(heads)), d = random(size_t(heads)),
                          weight = random(width);
            Numbers decay = random(size_t(heads));
            for (float &x : decay) x = -std::fabs(x);
            Numbers wanted = random(memory + width), got = wanted;
            for (const auto &[kernels, out] : {std::pair{&portable_, &wanted}, {&k_, &got}})
                kernels->ssm_step(z.data(), u.data(), B.data(), C.data(), dt.data(), bias.data(),
                                  decay.data(), d.data(), weight.data(), 1e-5f, size_t(heads),
                                  size_t(dim), size_t(states), out->data(), out->data() + memory);
            compare("ssm_step", wanted.data(), got.data(), memory + width, 5e-6);
        }
    }

    void attention(size_t length) {
        const size_t room = (length + kCacheStep - 1) / kCacheStep * kCacheStep;
        for (const auto &[heads, dim] : {std::pair<size_t, size_t>{5, 32}, {1, 48}, {4, 16}}) {
            const Numbers q = random(heads * dim, 2), keys = random(room * dim),
                          values = random(room * dim);
            Numbers scratch(room * 4), wanted(heads * dim), got(heads * dim);
            portable_.attend(q.data(), keys.data(), values.data(), heads, dim, length, 0.2f,
                             scratch.data(), wanted.data());
            k_.attend(q.data(), keys.data(), values.data(), heads, dim, length, 0.2f,
                      scratch.data(), got.data());
            compare("attend", wanted.data(), got.data(), heads * dim, 5e-6);
            for (const auto &[kernels, out] : {std::pair{&portable_, &wanted}, {&k_, &got}}) {
                std::vector<uint8_t> k8(room * dim), v8(room * dim);
                Numbers key_scales(room), value_scales(room);
                const Cache8 cache{k8.data(), key_scales.data(), v8.data(), value_scales.data()};
                for (size_t t = 0; t < length; t++)
                    kernels->store8(cache, t, keys.data() + t * dim, values.data() + t * dim, dim);
                kernels->attend8(q.data(), cache, heads, dim, length, 0.2f, out->data());
            }
            compare("attend8 and store8", wanted.data(), got.data(), heads * dim, kRounding);
            // 8 bits against floats: what the compact memory costs.
            portable_.attend(q.data(), keys.data(), values.data(), heads, dim, length, 0.2f,
                             scratch.data(), wanted.data());
            compare("attend8 against floats", wanted.data(), got.data(), heads * dim, 0.05);
        }
    }

    void search() {
        Numbers x = random(1000);
        for (const size_t n : {1, 16, 33, 999}) {
            bool nan_wanted = false, nan_got = true;
            const float wanted = portable_.maximum(x.data(), n, &nan_wanted);
            float got = k_.maximum(x.data(), n, &nan_got);
            if (nan_wanted != nan_got) got = NAN;
            compare("maximum", &wanted, &got, 1, 0);
            const auto at_wanted = float(portable_.find(x.data(), n, wanted));
            const auto at_got = float(k_.find(x.data(), n, wanted));
            compare("find", &at_wanted, &at_got, 1, 0);
        }
        for (const auto &[n, k] : {std::pair<size_t, size_t>{24, 3}, {5, 5}, {64, 20}}) {
            uint32_t chosen_wanted[32], chosen_got[32];
            Numbers a(x.begin(), x.begin() + 96), b = a, wanted(k), got(k);
            a[1] = b[1] = a[3] = b[3] = NAN;
            portable_.route(a.data(), n, k, chosen_wanted, wanted.data());
            k_.route(b.data(), n, k, chosen_got, got.data());
            if (!std::equal(chosen_wanted, chosen_wanted + k, chosen_got)) got[0] = NAN;
            compare("route", wanted.data(), got.data(), k);
        }
        x[500] = NAN;
        bool has_nan = false;
        k_.maximum(x.data(), 999, &has_nan);
        const float wanted = 1, got = has_nan;
        compare("maximum finds NaN", &wanted, &got, 1, 0);
    }

    const Kernels &portable_, &k_;
    std::mt19937 generator_{20260917};
    std::vector<KernelCheck> found_;
};

}  // namespace

std::vector<KernelCheck> check_kernels(const Kernels &kernels) { return Checker(kernels).run(); }

}  // namespace itera
