#include "measure/check.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <utility>

#include "model/pack.h"

namespace itera {

namespace {

constexpr double kFloat = 2e-6;  // sums in another order, fused multiply-adds
// One number in thousands may round to the next integer, which is 1/127 of its block's largest.
constexpr double kRounding = 2e-3;

using Numbers = std::vector<float>;

class Checker {
  public:
    Checker(const Kernels &kernels, bool quick)
        : portable_(*kernels_named("portable")), k_(kernels), quick_(quick) {}

    std::vector<KernelCheck> run() {
        for (const TensorType type : {TensorType::F32, TensorType::F16, TensorType::BF16,
                                      TensorType::Q8_0, TensorType::Q4_0})
            matmul(type);
        quantize();
        elementwise();
        ssm();
        for (const size_t length : {1, 15, 16, 17, 130, 700})
            if (!quick_ || length == 17) attention(length);
        search();
        sampling();
        return std::move(found_);
    }

  private:
    // With room for a whole vector after the last number, which kernels may touch.
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
                if (difference > check.difference || difference != difference)  // NaN stays
                    check.difference = difference;
                return;
            }
        found_.push_back({name, difference, allowed});
    }

    // Compares n floats that `run(kernels, y)` computes; y begins with the same random numbers.
    template <class Run>
    void both(const std::string &name, size_t n, Run run, double allowed = kFloat) {
        Numbers wanted = random(n), got = wanted;
        run(portable_, wanted.data());
        run(k_, got.data());
        compare(name, wanted.data(), got.data(), n, allowed);
    }

    // A matrix as a file holds it: random numbers, or random blocks with scales of about 1/100.
    std::vector<std::byte> stored(TensorType type, uint32_t rows, uint32_t columns) {
        const TypeInfo of = info(type);
        std::vector<std::byte> out(size_t(rows) * columns / of.values * of.bytes);
        for (std::byte &byte : out) byte = std::byte(generator_());
        for (size_t at = 0; at < out.size(); at += of.bytes) {
            const auto number = std::bit_cast<uint32_t>(random(1, 0.1f)[0]);
            const auto brain = uint16_t(number >> 16);
            const auto half = uint16_t((is_quantized(type) ? 0x2000 : 0x2c00 + (brain & 0x8000)) +
                                       generator_() % 0x800);
            if (type == TensorType::F32) std::memcpy(&out[at], &number, 4);
            else std::memcpy(&out[at], type == TensorType::BF16 ? &brain : &half, 2);
        }
        return out;
    }

    void matmul(TensorType type) {
        const bool whole_blocks = is_quantized(type);
        const uint32_t odd = whole_blocks ? 64 : 45;
        const uint32_t shapes[][2] = {{24, 128}, {64, 32}, {100, 96}, {7, odd}};
        for (const auto &[rows, columns] : shapes)
            for (const uint32_t n : {1u, 2u, 9u, 19u}) {
                if (quick_ && n > 2) break;
                const Numbers x = random(n * round_up(columns, kBlock));
                product(type, stored(type, rows, columns), rows, columns, x, n);
            }
        if (!whole_blocks) return;
        for (const int weight : {0x00, 0x7f, 0x81, 0xff}) {  // the greatest sums of a block
            std::vector<std::byte> bytes = stored(type, 16, 64);
            for (size_t at = 0; at < bytes.size(); at++)
                if (at % info(type).bytes >= sizeof(uint16_t)) bytes[at] = std::byte(weight);
            for (const float number : {-1.0f, 1.0f})
                product(type, bytes, 16, 64, Numbers(2 * 64 + 32, number), 2);
        }
    }

    // A stored matrix times n rows x, quantised by the portable kernels.
    void product(TensorType type, const std::vector<std::byte> &bytes, uint32_t rows,
                 uint32_t columns, const Numbers &x, uint32_t n) {
        const Tensor tensor{"check", type, {1, 1, rows, columns}, bytes};
        Arena ours(packed_bytes(tensor) + 64), theirs(packed_bytes(tensor) + 64);
        const Tensor *const one[] = {&tensor};
        const Matrix a = pack(one, theirs, portable_), b = pack(one, ours, k_);
        const size_t width = round_up(columns, kBlock), total = n * width;
        const size_t stride = a.padded_rows();
        Numbers scales(total / kBlock + 32);
        std::vector<int8_t> q(total + 64);
        std::vector<int32_t> sums(total / kBlock + 32);
        portable_.quantize(x.data(), total, q.data(), scales.data(), sums.data());
        const Rows in{x.data(), width, q.data(), scales.data(), sums.data(), nullptr, n};
        Numbers wanted(n * stride), got(n * stride);
        portable_.matmul(a, in, wanted.data(), stride);
        k_.matmul(b, in, got.data(), stride);
        compare(std::string("matmul ") + info(type).name, wanted.data(), got.data(),
                wanted.size());
        Numbers last(stride);  // the last row alone: the same bits
        k_.matmul(b, in.slice(n - 1, 1), last.data(), stride);
        compare(std::string("matmul of one row, ") + info(type).name,
                got.data() + (n - 1) * stride, last.data(), stride, 0);
    }

    void quantize() {
        const size_t n = 32 * 37;
        Numbers x = random(n);
        std::fill_n(x.data() + 64, 32, 0.0f);
        both("quantize", n, [&](const Kernels &k, float *y) {
            std::vector<int8_t> q(n);
            Numbers scales(n / 32);
            std::vector<int32_t> sums(n / 32);
            k.quantize(x.data(), n, q.data(), scales.data(), sums.data());
            for (size_t i = 0; i < n; i++) {
                y[i] = float(q[i]) * scales[i / 32];
                sums[i / 32] -= q[i];
            }
            for (const int32_t rest : sums)
                if (rest) y[0] = NAN;  // a sum that isn't that of its integers
        }, 1.0 / 127);
    }

    void elementwise() {
        const size_t n = 96;
        const Numbers a = random(n, 4), b = random(n), c = random(n), d = random(4 * n);
        both("gated_silu", n, [&](const Kernels &k, float *y) {
            k.gated_silu(a.data(), b.data(), n, y);
        });
        both("axpy", n, [&](const Kernels &k, float *y) { k.axpy(0.7f, a.data(), n, y); });
        for (const size_t taps : {2, 3, 4})
            both("convolve", 80, [&](const Kernels &k, float *y) {
                const float *window[] = {a.data(), b.data(), c.data(), a.data() + 16};
                k.convolve(window, d.data(), b.data(), taps, 80, y);
            });
        for (const bool adds : {true, false})
            both(adds ? "add_norm" : "norm", 2 * n, [&](const Kernels &k, float *y) {
                std::copy_n(a.data(), n, y);
                k.add_norm(y, adds ? b.data() : nullptr, 0.5f, c.data(), 1e-5f, n, y + n);
            });
        both("rotate", 48, [&](const Kernels &k, float *y) {
            k.rotate(y, a.data(), b.data(), 48);
        });
        both("log_sum_exp", 1, [&](const Kernels &k, float *y) {
            *y = k.log_sum_exp(a.data(), 93);
        });
    }

    void ssm() {
        const std::array<size_t, 3> shapes[] = {{3, 32, 8}, {17, 16, 5}, {2, 64, 128}, {1, 16, 1}};
        for (const auto &shape : shapes) {
            const size_t heads = shape[0], dim = shape[1], states = shape[2];
            const size_t width = heads * dim, memory = width * states;
            const Numbers z = random(width), u = random(width), B = random(states),
                          C = random(states), dt = random(heads, 4), bias = random(heads),
                          d = random(heads), weight = random(width);
            Numbers decay = random(heads);
            for (float &x : decay) x = -std::fabs(x);
            both("ssm_step", memory + width, [&](const Kernels &k, float *y) {
                k.ssm_step(z.data(), u.data(), B.data(), C.data(), dt.data(), bias.data(),
                           decay.data(), d.data(), weight.data(), 1e-5f, heads, dim, states, y,
                           y + memory);
            }, 5e-6);
        }
    }

    void attention(size_t length) {
        const size_t room = round_up(length, kCacheStep);
        const std::array<size_t, 2> shapes[] = {{5, 32}, {1, 48}, {4, 16}};
        for (const auto &shape : shapes) {
            const size_t heads = shape[0], dim = shape[1];
            Numbers q = random(heads * dim, 2);
            if (heads > 4) std::fill_n(q.data() + dim, dim, 0.0f);  // the mean of all values
            Numbers keys = random(room * dim), values = random(room * dim);
            Numbers scratch(room * 4);
            const auto in_floats = [&](const Kernels &k, float *y) {
                k.attend(q.data(), keys.data(), values.data(), heads, dim, length, 0.2f,
                         scratch.data(), y);
            };
            const auto in_bytes = [&](const Kernels &k, float *y) {
                std::vector<uint8_t> k8(room * dim);
                std::vector<int8_t> v8(room * dim);
                Numbers key_scales(room), value_scales(room);
                const Cache8 cache{k8.data(), key_scales.data(), v8.data(), value_scales.data()};
                for (size_t t = 0; t < length; t++)
                    k.store8(cache, t, keys.data() + t * dim, values.data() + t * dim, dim);
                k.attend8(q.data(), cache, heads, dim, length, 0.2f, y);
            };
            both("attend", heads * dim, in_floats, 5e-6);
            both("attend8 and store8", heads * dim, in_bytes, kRounding);
            // What the 8 bits cost.
            both("attend8 against floats", heads * dim, [&](const Kernels &k, float *y) {
                if (&k == &portable_) in_floats(k, y);
                else in_bytes(k, y);
            }, 0.05);
            // A key or a value that is NaN shows in all results.
            for (Numbers *each : {&keys, &values}) {
                float &number = (*each)[length / 2 * dim];
                const float before = std::exchange(number, NAN), wanted = 1;
                Numbers y(heads * dim);
                in_bytes(k_, y.data());
                number = before;
                const auto is_nan = [](float x) { return std::isnan(x); };
                const float got = std::ranges::all_of(y, is_nan) ? 1 : NAN;
                compare("attend8 shows NaN", &wanted, &got, 1, 0);
            }
        }
    }

    void search() {
        Numbers x = random(1000);
        for (const size_t n : {1, 16, 33, 999}) {
            const auto maximum = [&](const Kernels &k, float *y) {
                bool has_nan = true;
                *y = k.maximum(x.data(), n, &has_nan);
                if (has_nan) *y = NAN;
            };
            both("maximum", 1, maximum, 0);
            both("find", 1, [&](const Kernels &k, float *y) {
                maximum(portable_, y);
                *y = float(k.find(x.data(), n, *y));
            }, 0);
        }
        const std::array<size_t, 2> sizes[] = {{24, 3}, {5, 5}, {64, 20}};  // experts, chosen ones
        for (const auto &size : sizes)
            for (const bool numbers : {true, false})
                both("route", size[1], [&](const Kernels &k, float *y) {
                    Numbers logits(x.begin(), x.begin() + 96);
                    logits[1] = logits[3] = NAN;
                    std::vector<uint32_t> chosen(size[1]);
                    k.route(logits.data(), size[0], size[1], chosen.data(), y);
                    if (numbers) std::ranges::copy(chosen, y);
                });
        x[500] = NAN;
        both("maximum finds NaN", 1, [&](const Kernels &k, float *y) {
            bool has_nan = false;
            k.maximum(x.data(), 999, &has_nan);
            *y = has_nan ? 1 : NAN;
        }, 0);
    }

    // The same bits everywhere, so that the same seed draws the same tokens.
    void sampling() {
        constexpr size_t n = 300, room = 304;
        const Numbers logits = random(n, 4);
        for (const size_t size : {size_t(1), size_t(16), size_t(129), n})
            both("exponentials", size + 1, [&](const Kernels &k, float *y) {
                Numbers weights(room + 32);
                y[size] = float(k.exponentials(logits.data(), size, 12, 0.7f, weights.data()));
                std::copy_n(weights.data(), size, y);
            }, 0);
        Numbers weights(room);
        portable_.exponentials(logits.data(), n, 12, 0.7f, weights.data());
        weights[40] = weights[50];
        std::vector<uint32_t> ids(room);
        std::iota(ids.begin(), ids.end(), 7u);
        for (const float least : {1e-30f, weights[50], 0.5f, 2.0f}) {
            both("mass_from", 2, [&](const Kernels &k, float *y) {
                size_t count = 0;
                y[0] = float(k.mass_from(weights.data(), n, least, &count));
                y[1] = float(count);
            }, 0);
            both("select", 2 * room + 1, [&](const Kernels &k, float *y) {
                Numbers chosen(room);
                std::vector<uint32_t> chosen_ids(room);
                const size_t found = k.select(weights.data(), ids.data(), n, weights[50], least,
                                              chosen.data(), chosen_ids.data());
                std::fill_n(y, 2 * room, 0.0f);
                std::copy_n(chosen.data(), found, y);
                std::copy_n(chosen_ids.data(), found, y + room);
                y[2 * room] = float(found);
            }, 0);
        }
        for (const size_t group : {2, 5})
            both("maxima", room, [&](const Kernels &k, float *y) {
                const size_t found = k.maxima(weights.data(), n, group, y);
                std::fill(y + found, y + room, float(found));
            }, 0);
        double mass = 0;
        for (const float weight : weights) mass += weight;
        for (const double share : {0.0, 0.3, 0.9, 0.9999, 2.0})
            both("draw", 1, [&](const Kernels &k, float *y) {
                *y = float(k.draw(weights.data(), n, share * mass));
            }, 0);
    }

    const Kernels &portable_, &k_;
    const bool quick_;
    std::mt19937 generator_{20260917};
    std::vector<KernelCheck> found_;
};

}  // namespace

std::vector<KernelCheck> check_kernels(const Kernels &kernels, bool quick) {
    return Checker(kernels, quick).run();
}

}  // namespace itera
