// unmerge.hpp: unmerge.h for C++17 and later, header only.
//
// The contract is unmerge.h; here are only handles that clean up after themselves, views made from spans, results in
// vectors, and exceptions.
//
//     unmerge::Operator a = unmerge::Operator::from_matrix(unmerge::view(atoms.data(), p, n));
//     unmerge::Operator y = unmerge::Operator::from_matrix(unmerge::view(target));
//     unmerge::Gram gram(a, y);
//     unmerge::lasso_options options;
//     options.alpha = 0.1;
//     unmerge::result r = unmerge::lasso(gram, options);   // r(j) is the coefficient of atom j, r.report() its certificate
//
//  - A negative status becomes an unmerge::error, which knows the status and the sentence.
//  - An option type is the C struct, already initialised, so every field is documented in unmerge.h.
//  - Views borrow: keep arrays alive as long as unmerge.h asks for.
//  - A progress callback may throw: the call is cancelled and the exception continues once the library has returned.
#ifndef UNMERGE_HPP
#define UNMERGE_HPP

#include "unmerge.h"

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <limits>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#if __cplusplus >= 202002L
#include <span>
#endif

namespace unmerge {

// ---------------------------------------------------------------- errors

class error : public std::runtime_error {
public:
  error(unmerge_status status, const char *message)
      : std::runtime_error(*message ? message : unmerge_status_name(status)), status_(status) {}
  unmerge_status status() const noexcept { return status_; }

private:
  unmerge_status status_;
};

namespace detail {

inline void check(unmerge_status status, const char *message = "") {
  if (status < 0) throw error(status, message);
}

// Calls f(&error) and throws what it refuses.
template <class F> void call(F &&f) {
  unmerge_error e{};
  check(f(&e), e.message);
}

inline std::size_t size(std::int64_t n) { return n > 0 ? static_cast<std::size_t>(n) : 0; }

inline std::size_t product(std::int64_t rows, std::int64_t cols) {
  const std::size_t r = size(rows), c = size(cols);
  if (c != 0 && r > std::numeric_limits<std::size_t>::max() / c) throw std::length_error("unmerge: result too large");
  return r * c;
}

} // namespace detail

inline const char *version() noexcept { return unmerge_version(); }
inline const char *status_name(unmerge_status status) noexcept { return unmerge_status_name(status); }
inline const char *outcome_name(std::int32_t outcome) noexcept { return unmerge_outcome_name(outcome); }
inline const char *merge_name(std::int32_t method) noexcept { return unmerge_merge_name(method); }
inline const char *blas_description() noexcept { return unmerge_blas_description(); }

// ---------------------------------------------------------------- spans and views

#if __cplusplus >= 202002L
template <class T> using span = std::span<T>;
#else
// The part of std::span this header needs.
template <class T> class span {
public:
  using element_type = T;
  using value_type = std::remove_cv_t<T>;

  constexpr span() noexcept = default;
  constexpr span(T *data, std::size_t size) noexcept : data_(data), size_(size) {}
  template <std::size_t N> constexpr span(T (&a)[N]) noexcept : data_(a), size_(N) {}
  // From anything with data() and size() whose elements are T: vector, array, string, another span.
  template <class C, class P = decltype(std::declval<C &>().data()), class = decltype(std::declval<C &>().size()),
            class = std::enable_if_t<std::is_convertible_v<std::remove_pointer_t<P> (*)[], T (*)[]>>>
  constexpr span(C &&c) noexcept : data_(c.data()), size_(c.size()) {}

  constexpr T *data() const noexcept { return data_; }
  constexpr std::size_t size() const noexcept { return size_; }
  constexpr bool empty() const noexcept { return size_ == 0; }
  constexpr T &operator[](std::size_t i) const { return data_[i]; }
  constexpr T *begin() const noexcept { return data_; }
  constexpr T *end() const noexcept { return data_ + size_; }

private:
  T *data_ = nullptr;
  std::size_t size_ = 0;
};
#endif

// float and double say their element type; half and bfloat16 have no C++17 type and are given by name.
enum class dtype : std::int32_t { f64 = UNMERGE_F64, f32 = UNMERGE_F32, f16 = UNMERGE_F16, bf16 = UNMERGE_BF16 };

constexpr std::int64_t item_size(dtype type) noexcept { return type == dtype::f64 ? 8 : type == dtype::f32 ? 4 : 2; }

template <class T> struct dtype_of;
template <> struct dtype_of<double> { static constexpr dtype value = dtype::f64; };
template <> struct dtype_of<float> { static constexpr dtype value = dtype::f32; };

using view_type = unmerge_view;

// Strides in bytes, as in unmerge.h.  const is cast away because one C struct serves inputs and outputs; inputs are only read.
inline view_type view_bytes(const void *data, dtype type, std::int64_t rows, std::int64_t cols, std::int64_t row_stride,
                            std::int64_t col_stride) noexcept {
  view_type v{};
  v.data = const_cast<void *>(data);
  v.dtype = static_cast<std::int32_t>(type);
  v.shape[0] = rows;
  v.shape[1] = cols;
  v.strides[0] = row_stride;
  v.strides[1] = col_stride;
  return v;
}

// Row-major rows x cols of a named type.
inline view_type view(const void *data, dtype type, std::int64_t rows, std::int64_t cols) {
  constexpr std::int64_t limit = std::numeric_limits<std::int64_t>::max() / 8;
  if (cols > limit || cols < -limit) throw error(UNMERGE_E_SHAPE, "a view has more columns than an address can reach");
  return view_bytes(data, type, rows, cols, cols * item_size(type), item_size(type));
}

// Row-major rows x cols.
template <class T> view_type view(const T *data, std::int64_t rows, std::int64_t cols) {
  return view(static_cast<const void *>(data), dtype_of<T>::value, rows, cols);
}

// Column-major rows x cols: atom after atom.
template <class T> view_type view_columns(const T *data, std::int64_t rows, std::int64_t cols) {
  view_type v = view(data, cols, rows);
  std::swap(v.shape[0], v.shape[1]);
  std::swap(v.strides[0], v.strides[1]);
  return v;
}

// A vector p x 1 from anything with data() and size().
template <class C, class P = decltype(std::declval<const C &>().data())> view_type view(const C &c) {
  return view(static_cast<P>(c.data()), static_cast<std::int64_t>(c.size()), 1);
}

// ---------------------------------------------------------------- options, run, report

namespace detail {
template <class S, unmerge_status (*Init)(S *, std::size_t)> struct initialised : S {
  initialised() : S{} { check(Init(this, sizeof(S))); }
};
} // namespace detail

using mask_options = detail::initialised<unmerge_mask_options, unmerge_mask_options_init>;
using gram_options = detail::initialised<unmerge_gram_options, unmerge_gram_options_init>;
using dot_options = detail::initialised<unmerge_dot_options, unmerge_dot_options_init>;
using ridge_options = detail::initialised<unmerge_ridge_options, unmerge_ridge_options_init>;
using lasso_options = detail::initialised<unmerge_lasso_options, unmerge_lasso_options_init>;
using elastic_net_options = detail::initialised<unmerge_elastic_net_options, unmerge_elastic_net_options_init>;
using path_options = detail::initialised<unmerge_path_options, unmerge_path_options_init>;
using group_options = detail::initialised<unmerge_group_options, unmerge_group_options_init>; // arrays are borrowed
using group_path_options = detail::initialised<unmerge_group_path_options, unmerge_group_path_options_init>;
using nnls_options = detail::initialised<unmerge_nnls_options, unmerge_nnls_options_init>;
using bvls_options = detail::initialised<unmerge_bvls_options, unmerge_bvls_options_init>; // bounds are borrowed
using simplex_options = detail::initialised<unmerge_simplex_options, unmerge_simplex_options_init>;
using lasso_tau_options = detail::initialised<unmerge_lasso_tau_options, unmerge_lasso_tau_options_init>;
using bpdn_options = detail::initialised<unmerge_bpdn_options, unmerge_bpdn_options_init>;
using basis_pursuit_options = detail::initialised<unmerge_basis_pursuit_options, unmerge_basis_pursuit_options_init>;
using dantzig_options = detail::initialised<unmerge_dantzig_options, unmerge_dantzig_options_init>;
using omp_options = detail::initialised<unmerge_omp_options, unmerge_omp_options_init>;
using pursuit_options = detail::initialised<unmerge_pursuit_options, unmerge_pursuit_options_init>;
using thresholding_options = detail::initialised<unmerge_thresholding_options, unmerge_thresholding_options_init>;
using best_subset_options = detail::initialised<unmerge_best_subset_options, unmerge_best_subset_options_init>;
using mcp_options = detail::initialised<unmerge_mcp_options, unmerge_mcp_options_init>;
using scad_options = detail::initialised<unmerge_scad_options, unmerge_scad_options_init>;
using cel0_options = detail::initialised<unmerge_cel0_options, unmerge_cel0_options_init>;
using lq_options = detail::initialised<unmerge_lq_options, unmerge_lq_options_init>;
using slope_options = detail::initialised<unmerge_slope_options, unmerge_slope_options_init>;
using fused_lasso_options = detail::initialised<unmerge_fused_lasso_options, unmerge_fused_lasso_options_init>;
using group_sparse_options = detail::initialised<unmerge_group_sparse_options, unmerge_group_sparse_options_init>; // weights borrowed
using nmf_options = detail::initialised<unmerge_nmf_options, unmerge_nmf_options_init>; // the start is borrowed
using online_nmf_options = detail::initialised<unmerge_online_nmf_options, unmerge_online_nmf_options_init>;
using gram_nmf_options = detail::initialised<unmerge_gram_nmf_options, unmerge_gram_nmf_options_init>;
using prox_options = detail::initialised<unmerge_prox_options, unmerge_prox_options_init>;
using problem = detail::initialised<unmerge_problem, unmerge_problem_init>;
using group_sparse_report = detail::initialised<unmerge_group_sparse_report, unmerge_group_sparse_report_init>;
using report_type = detail::initialised<unmerge_report, unmerge_report_init>;
using recipe = detail::initialised<unmerge_recipe, unmerge_recipe_init>; // weights and densities are borrowed
using attribute_options = detail::initialised<unmerge_attribute_options, unmerge_attribute_options_init>;

// Set from any thread to cancel the calls whose run.cancel points to it.
class cancel_flag {
public:
  void set() noexcept { flag_.store(1, std::memory_order_relaxed); }
  void clear() noexcept { flag_.store(0, std::memory_order_relaxed); }
  bool is_set() const noexcept { return flag_.load(std::memory_order_relaxed) != 0; }
  const std::int32_t *address() const noexcept { return reinterpret_cast<const std::int32_t *>(&flag_); }

private:
  std::atomic<std::int32_t> flag_{0};
  static_assert(sizeof(std::atomic<std::int32_t>) == sizeof(std::int32_t) && std::atomic<std::int32_t>::is_always_lock_free,
                "the library reads the flag as a plain int32_t");
};

// unmerge_run with a callback that may be any callable: return true to go on, false to cancel.
struct run : detail::initialised<unmerge_run, unmerge_run_init> {
  std::function<bool(const unmerge_progress &)> on_progress;
};

namespace detail {

// Carries a callback's exception across the library, which it must not be thrown through.
struct relay {
  const std::function<bool(const unmerge_progress &)> *callback;
  std::exception_ptr thrown;

  static std::int32_t progress(void *user, const unmerge_progress *p) noexcept {
    relay &self = *static_cast<relay *>(user);
    try {
      return (*self.callback)(*p) ? 0 : 1;
    } catch (...) {
      self.thrown = std::current_exception();
      return 1;
    }
  }
};

// Calls f(run, &error), rethrows what the callback threw, throws what the library refuses.
template <class F> void call(const run &r, F &&f) {
  unmerge_error e{};
  unmerge_run c = r;
  relay back{&r.on_progress, nullptr};
  if (r.on_progress) {
    c.progress = &relay::progress;
    c.progress_user = &back;
  }
  const unmerge_status status = f(&c, &e);
  if (back.thrown) std::rethrow_exception(back.thrown);
  check(status, e.message);
}

// Owns a C handle; moves, never copies.
template <class H, void (*Destroy)(H *)> class handle {
public:
  handle() noexcept = default;
  explicit handle(H *h) noexcept : handle_(h) {}
  handle(handle &&other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  handle &operator=(handle &&other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  handle(const handle &) = delete;
  handle &operator=(const handle &) = delete;
  ~handle() { Destroy(handle_); }

  H *get() const noexcept { return handle_; }
  H *release() noexcept { return std::exchange(handle_, nullptr); }
  explicit operator bool() const noexcept { return handle_ != nullptr; }

protected:
  H *handle_ = nullptr;
};

} // namespace detail

// ---------------------------------------------------------------- operator

class Operator : public detail::handle<unmerge_operator, unmerge_operator_destroy> {
public:
  using handle::handle;

  // An operator without modules and columns.
  Operator() {
    detail::call([&](unmerge_error *e) { return unmerge_operator_create(&handle_, e); });
  }

  static Operator from_matrix(const view_type &matrix) {
    unmerge_operator *h = nullptr;
    detail::call([&](unmerge_error *e) { return unmerge_operator_from_matrix(&matrix, &h, e); });
    return Operator(h);
  }

  std::int64_t add_module(const std::string &name, std::int64_t rows, std::int64_t cols) {
    std::int64_t index = -1;
    detail::call([&](unmerge_error *e) { return unmerge_operator_add_module(handle_, name.c_str(), rows, cols, &index, e); });
    return index;
  }

  std::int64_t add_column(const std::string &name) {
    std::int64_t index = -1;
    detail::call([&](unmerge_error *e) { return unmerge_operator_add_column(handle_, name.c_str(), &index, e); });
    return index;
  }

  // scale * values
  void set_dense(std::int64_t module, std::int64_t column, const view_type &values, double scale = 1) {
    detail::call([&](unmerge_error *e) { return unmerge_operator_set_dense(handle_, module, column, &values, nullptr, scale, e); });
  }

  // scale * (values - base)
  void set_dense(std::int64_t module, std::int64_t column, const view_type &values, const view_type &base, double scale = 1) {
    detail::call([&](unmerge_error *e) { return unmerge_operator_set_dense(handle_, module, column, &values, &base, scale, e); });
  }

  // scale * B A
  void set_lora(std::int64_t module, std::int64_t column, const view_type &b, const view_type &a, double scale = 1) {
    detail::call([&](unmerge_error *e) { return unmerge_operator_set_lora(handle_, module, column, &b, &a, scale, e); });
  }

  std::int64_t modules() const { return shape()[0]; }
  std::int64_t columns() const { return shape()[1]; }
  std::int64_t entries() const { return shape()[2]; }

private:
  std::array<std::int64_t, 3> shape() const {
    std::array<std::int64_t, 3> s{};
    detail::call([&](unmerge_error *e) { return unmerge_operator_shape(handle_, &s[0], &s[1], &s[2], e); });
    return s;
  }
};

// ---------------------------------------------------------------- mask

class Mask : public detail::handle<unmerge_mask, unmerge_mask_destroy> {
public:
  using handle::handle;

  explicit Mask(const Operator &a, const mask_options &options = {}, const run &r = {}) {
    detail::call(r, [&](const unmerge_run *c, unmerge_error *e) {
      return unmerge_mask_create(a.get(), &options, c, &handle_, e);
    });
  }

  // Kept entries of a module, or of all with module = -1.
  std::int64_t count(std::int64_t module = -1) const {
    std::int64_t n = 0;
    detail::call([&](unmerge_error *e) { return unmerge_mask_count(handle_, module, &n, e); });
    return n;
  }

  std::vector<std::int64_t> indices(std::int64_t module) const {
    std::vector<std::int64_t> list(detail::size(count(module)));
    detail::call([&](unmerge_error *e) {
      return unmerge_mask_indices(handle_, module, list.data(), static_cast<std::int64_t>(list.size()), e);
    });
    return list;
  }
};

// ---------------------------------------------------------------- Gram

// Which atoms or blocks: unmerge::all, or a list.
struct all_type {};
inline constexpr all_type all{};

class selection {
public:
  selection(all_type) noexcept {}
  selection(span<const std::int64_t> list) noexcept : data_(list.empty() ? &none() : list.data()), size_(list.size()) {}
  selection(const std::vector<std::int64_t> &list) noexcept : selection(span<const std::int64_t>(list.data(), list.size())) {}

  const std::int64_t *data() const noexcept { return data_; }
  std::int64_t size() const noexcept { return static_cast<std::int64_t>(size_); }

private:
  // An empty list is not NULL, which would mean all.
  static const std::int64_t &none() noexcept {
    static const std::int64_t zero = 0;
    return zero;
  }
  const std::int64_t *data_ = nullptr;
  std::size_t size_ = 0;
};

struct block_info {
  std::string module;
  std::int64_t fold = 0;
  std::int64_t entries = 0;
};

// Row-major: g is n x n, c is n x targets.
struct gram_arrays {
  std::vector<double> g, c, yy;
};

class Gram : public detail::handle<unmerge_gram, unmerge_gram_destroy> {
public:
  using handle::handle;

  // The one pass over the data.
  Gram(const Operator &a, const Operator &y, const gram_options &options = {}, const run &r = {}) {
    detail::call(r, [&](const unmerge_run *c, unmerge_error *e) {
      return unmerge_gram_create(a.get(), y.get(), &options, c, &handle_, e);
    });
  }

  static Gram from_arrays(const view_type &g, const view_type &c, const view_type &yy, std::int64_t p) {
    return made([&](unmerge_gram **out, unmerge_error *e) { return unmerge_gram_from_arrays(&g, &c, &yy, p, out, e); });
  }

  static Gram load(span<const unsigned char> bytes) {
    return made([&](unmerge_gram **out, unmerge_error *e) {
      return unmerge_gram_load(bytes.data(), static_cast<std::int64_t>(bytes.size()), out, e);
    });
  }

  // The sum of two Grams over the same numbers of atoms and targets.
  static Gram merge(const Gram &a, const Gram &b) {
    return made([&](unmerge_gram **out, unmerge_error *e) { return unmerge_gram_merge(a.get(), b.get(), out, e); });
  }

  Gram subset(const selection &atoms, const selection &blocks = all) const {
    return made([&](unmerge_gram **out, unmerge_error *e) {
      return unmerge_gram_subset(handle_, atoms.data(), atoms.size(), blocks.data(), blocks.size(), out, e);
    });
  }

  unmerge_gram_info info() const {
    unmerge_gram_info i{};
    i.struct_size = sizeof i;
    detail::call([&](unmerge_error *e) { return unmerge_gram_get_info(handle_, &i, e); });
    return i;
  }
  std::int64_t atoms() const { return info().atoms; }
  std::int64_t targets() const { return info().targets; }

  block_info block(std::int64_t index) const {
    block_info b;
    const char *module = nullptr;
    detail::call([&](unmerge_error *e) { return unmerge_gram_block(handle_, index, &module, &b.fold, &b.entries, e); });
    b.module = module;
    return b;
  }

  // The arrays of one block, or of the sum with index = -1.
  gram_arrays arrays(std::int64_t index = -1) const {
    const unmerge_gram_info i = info();
    gram_arrays r;
    r.g.resize(detail::product(i.atoms, i.atoms));
    r.c.resize(detail::product(i.atoms, i.targets));
    r.yy.resize(detail::size(i.targets));
    const view_type g = view(r.g.data(), i.atoms, i.atoms), c = view(r.c.data(), i.atoms, i.targets), yy = view(r.yy);
    detail::call([&](unmerge_error *e) { return unmerge_gram_arrays(handle_, index, &g, &c, &yy, e); });
    return r;
  }

  std::vector<unsigned char> save() const {
    std::int64_t n = 0;
    detail::call([&](unmerge_error *e) { return unmerge_gram_saved_size(handle_, &n, e); });
    std::vector<unsigned char> bytes(detail::size(n));
    detail::call([&](unmerge_error *e) { return unmerge_gram_save(handle_, bytes.data(), n, e); });
    return bytes;
  }

private:
  friend class Accumulator;
  template <class F> static Gram made(F &&f) {
    unmerge_gram *h = nullptr;
    detail::call([&](unmerge_error *e) { return f(&h, e); });
    return Gram(h);
  }
};

// ---------------------------------------------------------------- accumulator

class Accumulator : public detail::handle<unmerge_accumulator, unmerge_accumulator_destroy> {
public:
  using handle::handle;

  explicit Accumulator(std::int64_t atoms, std::int64_t targets = 1, const gram_options &options = {}) {
    detail::call([&](unmerge_error *e) { return unmerge_accumulator_create(atoms, targets, &options, &handle_, e); });
  }

  // The next rows: a is q x atoms, y is q x targets.
  void add(const view_type &a, const view_type &y, const run &r = {}) {
    detail::call(r, [&](const unmerge_run *c, unmerge_error *e) { return unmerge_accumulator_add(handle_, &a, &y, c, e); });
  }

  // The Gram of the rows so far; more may follow.
  Gram finish() {
    return Gram::made([&](unmerge_gram **out, unmerge_error *e) { return unmerge_accumulator_finish(handle_, out, e); });
  }
};

// ---------------------------------------------------------------- models

// What is learned from data and has a state.  The data is given to every step and not kept.
class Model : public detail::handle<unmerge_model, unmerge_model_destroy> {
public:
  using handle::handle;

  static Model nmf(const view_type &x, const nmf_options &options = {}, const run &r = {}) {
    return made(r, [&](const unmerge_run *c, unmerge_model **out, unmerge_error *e) {
      return unmerge_nmf_create(&x, &options, c, out, e);
    });
  }
  static Model online_nmf(const view_type &x, const online_nmf_options &options = {}, const run &r = {}) {
    return made(r, [&](const unmerge_run *c, unmerge_model **out, unmerge_error *e) {
      return unmerge_online_nmf_create(&x, &options, c, out, e);
    });
  }
  static Model gram_nmf(const Gram &gram, const gram_nmf_options &options = {}, const run &r = {}) {
    return made(r, [&](const unmerge_run *c, unmerge_model **out, unmerge_error *e) {
      return unmerge_gram_nmf_create(gram.get(), &options, c, out, e);
    });
  }
  static Model load(span<const unsigned char> bytes) {
    return made(run(), [&](const unmerge_run *, unmerge_model **out, unmerge_error *e) {
      return unmerge_model_load(bytes.data(), static_cast<std::int64_t>(bytes.size()), out, e);
    });
  }

  unmerge_model_info info() const {
    unmerge_model_info i{};
    i.struct_size = sizeof i;
    detail::call([&](unmerge_error *e) { return unmerge_model_get_info(handle_, &i, e); });
    return i;
  }

  // At most run.max_iter more iterations; without x for a model that has what it needs.
  unmerge_report step(const view_type &x, const run &r) { return step(&x, r); }
  unmerge_report step(const run &r) { return step(nullptr, r); }

  // W, rows x components, and H, components x columns; row-major.
  std::vector<double> components() const {
    const unmerge_model_info i = info();
    return read(i.rows, i.components, unmerge_model_components);
  }
  std::vector<double> codes() const {
    const unmerge_model_info i = info();
    return read(i.components, i.columns, unmerge_model_codes);
  }

  // Codes of any data for the dictionary as it is, components x columns of x.
  std::vector<double> transform(const view_type &x, const run &r = {}) const {
    const std::int64_t k = info().components;
    std::vector<double> codes(detail::product(k, x.shape[1]));
    const view_type v = view(codes.data(), k, x.shape[1]);
    detail::call(r, [&](const unmerge_run *c, unmerge_error *e) {
      return unmerge_model_transform(handle_, &x, c, &v, nullptr, e);
    });
    return codes;
  }

  std::vector<unsigned char> save() const {
    std::int64_t n = 0;
    detail::call([&](unmerge_error *e) { return unmerge_model_saved_size(handle_, &n, e); });
    std::vector<unsigned char> bytes(detail::size(n));
    detail::call([&](unmerge_error *e) { return unmerge_model_save(handle_, bytes.data(), n, e); });
    return bytes;
  }

private:
  template <class F> static Model made(const run &r, F &&f) {
    unmerge_model *h = nullptr;
    detail::call(r, [&](const unmerge_run *c, unmerge_error *e) { return f(c, &h, e); });
    return Model(h);
  }

  unmerge_report step(const view_type *x, const run &r) {
    report_type report;
    detail::call(r, [&](const unmerge_run *c, unmerge_error *e) { return unmerge_model_step(handle_, x, c, &report, e); });
    return report;
  }

  template <class F> std::vector<double> read(std::int64_t rows, std::int64_t cols, F &&f) const {
    std::vector<double> values(detail::product(rows, cols));
    const view_type v = view(values.data(), rows, cols);
    detail::call([&](unmerge_error *e) { return f(handle_, &v, e); });
    return values;
  }
};

// z = the group sparse projection of x; groups are the columns.  z may be x.
inline group_sparse_report group_sparse_projection(const view_type &x, const view_type &z, const group_sparse_options &options = {},
                                                   const run &r = {}) {
  group_sparse_report report;
  detail::call(r, [&](const unmerge_run *c, unmerge_error *e) {
    return unmerge_group_sparse_projection(&x, nullptr, x.shape[1], &options, c, &z, nullptr, &report, e);
  });
  return report;
}

// ---------------------------------------------------------------- methods

// coef is atoms x columns, row-major; column t answers for target t (in a path: for alpha t) and has report t.
struct result {
  std::int64_t atoms = 0;
  std::int64_t columns = 0;
  std::vector<double> coef;
  std::vector<unmerge_report> reports;

  double operator()(std::int64_t atom, std::int64_t column = 0) const {
    return coef.at(detail::size(atom) * detail::size(columns) + detail::size(column));
  }
  const unmerge_report &report(std::int64_t column = 0) const { return reports.at(detail::size(column)); }
};

// multiplier: of the constraint, one per target.
struct constrained_result : result {
  std::vector<double> multiplier;
};

struct path_result : result {
  std::vector<double> alphas; // in the order of the columns
};

// order is k x columns, row-major: atoms as they were selected, then -1.
struct omp_result : result {
  std::int64_t k = 0;
  std::vector<std::int64_t> order;
};

struct verification {
  std::vector<double> residual_correlation; // A'r, atoms x targets, row-major
  std::vector<unmerge_report> reports;
};

namespace detail {

inline std::vector<unmerge_report> reports(std::int64_t n) { return std::vector<unmerge_report>(size(n), report_type()); }

inline void shape(result &r, std::int64_t atoms, std::int64_t columns) {
  r.atoms = atoms;
  r.columns = columns;
  r.coef.assign(product(atoms, columns), 0.0);
  r.reports = reports(columns);
}

// Where a method may start from earlier coefficients: they are copied and the options say so.
template <class Options> Options start(result &r, const Options &options, span<const double> warm) {
  Options o = options;
  if (!warm.empty()) {
    if (warm.size() != r.coef.size()) throw error(UNMERGE_E_SHAPE, "the coefficients to start from are not atoms x targets");
    r.coef.assign(warm.begin(), warm.end());
    o.warm_start = 1;
  }
  return o;
}

template <class Options>
using method = unmerge_status (*)(const unmerge_gram *, const Options *, const unmerge_run *, const unmerge_view *,
                                  unmerge_report *, unmerge_error *);

template <class Options> void solve(method<Options> f, result &answer, const Gram &gram, const Options &options, const run &r) {
  const view_type coef = view(answer.coef.data(), answer.atoms, answer.columns);
  call(r, [&](const unmerge_run *c, unmerge_error *e) {
    return f(gram.get(), &options, c, &coef, answer.reports.data(), e);
  });
}

template <class Options>
using constrained_method = unmerge_status (*)(const unmerge_gram *, const Options *, const unmerge_run *, const unmerge_view *,
                                              double *, unmerge_report *, unmerge_error *);

template <class Options>
constrained_result solve_constrained(constrained_method<Options> f, const Gram &gram, const Options &options, const run &r) {
  const unmerge_gram_info i = gram.info();
  constrained_result answer;
  shape(answer, i.atoms, i.targets);
  answer.multiplier.resize(size(i.targets));
  const view_type coef = view(answer.coef.data(), answer.atoms, answer.columns);
  call(r, [&](const unmerge_run *c, unmerge_error *e) {
    return f(gram.get(), &options, c, &coef, answer.multiplier.data(), answer.reports.data(), e);
  });
  return answer;
}

inline result empty_result(const Gram &gram) {
  const unmerge_gram_info i = gram.info();
  result answer;
  shape(answer, i.atoms, i.targets);
  return answer;
}

} // namespace detail

inline result dot(const Gram &gram, const dot_options &options = {}, const run &r = {}) {
  result answer = detail::empty_result(gram);
  detail::solve<unmerge_dot_options>(unmerge_dot, answer, gram, options, r);
  return answer;
}

inline result ridge(const Gram &gram, const ridge_options &options = {}, const run &r = {}) {
  result answer = detail::empty_result(gram);
  detail::solve<unmerge_ridge_options>(unmerge_ridge, answer, gram, options, r);
  return answer;
}

inline result lasso(const Gram &gram, const lasso_options &options = {}, const run &r = {}, span<const double> warm = {}) {
  result answer = detail::empty_result(gram);
  detail::solve<unmerge_lasso_options>(unmerge_lasso, answer, gram, detail::start(answer, options, warm), r);
  return answer;
}

inline result elastic_net(const Gram &gram, const elastic_net_options &options = {}, const run &r = {},
                          span<const double> warm = {}) {
  result answer = detail::empty_result(gram);
  detail::solve<unmerge_elastic_net_options>(unmerge_elastic_net, answer, gram, detail::start(answer, options, warm), r);
  return answer;
}

inline result nnls(const Gram &gram, const nnls_options &options = {}, const run &r = {}, span<const double> warm = {}) {
  result answer = detail::empty_result(gram);
  detail::solve<unmerge_nnls_options>(unmerge_nnls, answer, gram, detail::start(answer, options, warm), r);
  return answer;
}

inline result bvls(const Gram &gram, const bvls_options &options = {}, const run &r = {}, span<const double> warm = {}) {
  result answer = detail::empty_result(gram);
  detail::solve<unmerge_bvls_options>(unmerge_bvls, answer, gram, detail::start(answer, options, warm), r);
  return answer;
}

inline constrained_result simplex(const Gram &gram, const simplex_options &options = {}, const run &r = {}) {
  return detail::solve_constrained<unmerge_simplex_options>(unmerge_simplex, gram, options, r);
}

inline constrained_result lasso_tau(const Gram &gram, const lasso_tau_options &options = {}, const run &r = {}) {
  return detail::solve_constrained<unmerge_lasso_tau_options>(unmerge_lasso_tau, gram, options, r);
}

inline constrained_result bpdn(const Gram &gram, const bpdn_options &options = {}, const run &r = {}) {
  return detail::solve_constrained<unmerge_bpdn_options>(unmerge_bpdn, gram, options, r);
}

inline result basis_pursuit(const Gram &gram, const basis_pursuit_options &options = {}, const run &r = {}) {
  result answer = detail::empty_result(gram);
  detail::solve<unmerge_basis_pursuit_options>(unmerge_basis_pursuit, answer, gram, options, r);
  return answer;
}

inline result dantzig(const Gram &gram, const dantzig_options &options = {}, const run &r = {}) {
  result answer = detail::empty_result(gram);
  detail::solve<unmerge_dantzig_options>(unmerge_dantzig, answer, gram, options, r);
  return answer;
}

// The smallest alpha that gives zero, for each target.
inline std::vector<double> alpha_max(const Gram &gram, double l1_ratio = 1, bool positive = false,
                                     span<const double> weights = {}) {
  const unmerge_gram_info i = gram.info();
  if (!weights.empty() && weights.size() != detail::size(i.atoms)) throw error(UNMERGE_E_SHAPE, "there must be one weight per atom");
  std::vector<double> alphas(detail::size(i.targets));
  detail::call([&](unmerge_error *e) {
    return unmerge_alpha_max(gram.get(), l1_ratio, weights.empty() ? nullptr : weights.data(), positive ? 1 : 0, alphas.data(), e);
  });
  return alphas;
}

inline path_result lasso_path(const Gram &gram, const path_options &options = {}, const run &r = {}) {
  path_result answer;
  detail::shape(answer, gram.atoms(), options.n_alphas);
  answer.alphas.resize(detail::size(options.n_alphas));
  const view_type coef = view(answer.coef.data(), answer.atoms, answer.columns);
  detail::call(r, [&](const unmerge_run *c, unmerge_error *e) {
    return unmerge_lasso_path(gram.get(), &options, c, answer.alphas.data(), &coef, answer.reports.data(), e);
  });
  return answer;
}

inline result group_lasso(const Gram &gram, const group_options &options = {}, const run &r = {}, span<const double> warm = {}) {
  result answer = detail::empty_result(gram);
  const unmerge_group_options o = detail::start(answer, options, warm);
  const view_type coef = view(answer.coef.data(), answer.atoms, answer.columns);
  detail::call(r, [&](const unmerge_run *c, unmerge_error *e) {
    return unmerge_group_lasso(gram.get(), &o, c, &coef, nullptr, answer.reports.data(), e);
  });
  return answer;
}

// The smallest alpha whose group LASSO is zero on all that is penalised, for each target.
inline std::vector<double> group_alpha_max(const Gram &gram, const group_options &options = {}, const run &r = {}) {
  std::vector<double> alphas(detail::size(gram.targets()));
  detail::call(r, [&](const unmerge_run *c, unmerge_error *e) {
    return unmerge_group_alpha_max(gram.get(), &options, c, alphas.data(), e);
  });
  return alphas;
}

inline path_result group_lasso_path(const Gram &gram, const group_options &options = {}, const group_path_options &path = {},
                                    const run &r = {}) {
  path_result answer;
  detail::shape(answer, gram.atoms(), path.n_alphas);
  answer.alphas.resize(detail::size(path.n_alphas));
  const view_type coef = view(answer.coef.data(), answer.atoms, answer.columns);
  detail::call(r, [&](const unmerge_run *c, unmerge_error *e) {
    return unmerge_group_lasso_path(gram.get(), &options, &path, c, answer.alphas.data(), &coef, answer.reports.data(), e);
  });
  return answer;
}

inline result mcp(const Gram &gram, const mcp_options &options = {}, const run &r = {}, span<const double> warm = {}) {
  result answer = detail::empty_result(gram);
  detail::solve<unmerge_mcp_options>(unmerge_mcp, answer, gram, detail::start(answer, options, warm), r);
  return answer;
}

inline result scad(const Gram &gram, const scad_options &options = {}, const run &r = {}, span<const double> warm = {}) {
  result answer = detail::empty_result(gram);
  detail::solve<unmerge_scad_options>(unmerge_scad, answer, gram, detail::start(answer, options, warm), r);
  return answer;
}

inline result cel0(const Gram &gram, const cel0_options &options = {}, const run &r = {}, span<const double> warm = {}) {
  result answer = detail::empty_result(gram);
  detail::solve<unmerge_cel0_options>(unmerge_cel0, answer, gram, detail::start(answer, options, warm), r);
  return answer;
}

inline result lq(const Gram &gram, const lq_options &options = {}, const run &r = {}, span<const double> warm = {}) {
  result answer = detail::empty_result(gram);
  detail::solve<unmerge_lq_options>(unmerge_lq, answer, gram, detail::start(answer, options, warm), r);
  return answer;
}

inline result slope(const Gram &gram, const slope_options &options = {}, const run &r = {}, span<const double> warm = {}) {
  result answer = detail::empty_result(gram);
  detail::solve<unmerge_slope_options>(unmerge_slope, answer, gram, detail::start(answer, options, warm), r);
  return answer;
}

inline result fused_lasso(const Gram &gram, const fused_lasso_options &options = {}, const run &r = {},
                          span<const double> warm = {}) {
  result answer = detail::empty_result(gram);
  detail::solve<unmerge_fused_lasso_options>(unmerge_fused_lasso, answer, gram, detail::start(answer, options, warm), r);
  return answer;
}

// atoms x modules; `modules` is how many different modules the blocks of the Gram have.
inline result fused_lasso_modules(const Gram &gram, std::int64_t modules, const fused_lasso_options &options = {}, const run &r = {},
                                  span<const double> warm = {}) {
  result answer;
  detail::shape(answer, gram.atoms(), modules);
  answer.reports.resize(1);
  detail::solve<unmerge_fused_lasso_options>(unmerge_fused_lasso_modules, answer, gram, detail::start(answer, options, warm), r);
  return answer;
}

// z <- prox of x; z may be x.
inline void prox(std::int32_t kind, const view_type &x, const view_type &z, const prox_options &options = {}) {
  detail::call([&](unmerge_error *e) { return unmerge_prox(kind, &options, &x, &z, e); });
}

inline omp_result omp(const Gram &gram, const omp_options &options = {}, const run &r = {}) {
  omp_result answer;
  const unmerge_gram_info i = gram.info();
  detail::shape(answer, i.atoms, i.targets);
  omp_options o = options;
  if (o.k > i.atoms) o.k = i.atoms + 1; // as clipped as any larger k, and order stays small
  answer.k = o.k;
  answer.order.assign(detail::product(o.k, i.targets), -1);
  const view_type coef = view(answer.coef.data(), answer.atoms, answer.columns);
  detail::call(r, [&](const unmerge_run *c, unmerge_error *e) {
    return unmerge_omp(gram.get(), &o, c, &coef, answer.order.data(), answer.reports.data(), e);
  });
  return answer;
}

// order holds groups where the options have groups.
inline omp_result pursuit(const Gram &gram, const pursuit_options &options = {}, const run &r = {}) {
  omp_result answer;
  const unmerge_gram_info i = gram.info();
  detail::shape(answer, i.atoms, i.targets);
  pursuit_options o = options;
  const std::int64_t most = o.n_groups > i.atoms ? o.n_groups : i.atoms;
  if (o.k > most) o.k = most + 1; // as clipped as any larger k, and order stays small
  answer.k = o.k;
  answer.order.assign(detail::product(o.k, i.targets), -1);
  const view_type coef = view(answer.coef.data(), answer.atoms, answer.columns);
  detail::call(r, [&](const unmerge_run *c, unmerge_error *e) {
    return unmerge_pursuit(gram.get(), &o, c, &coef, answer.order.data(), answer.reports.data(), e);
  });
  return answer;
}

inline result thresholding(const Gram &gram, const thresholding_options &options = {}, const run &r = {},
                           span<const double> warm = {}) {
  result answer = detail::empty_result(gram);
  detail::solve<unmerge_thresholding_options>(unmerge_thresholding, answer, gram, detail::start(answer, options, warm), r);
  return answer;
}

inline result best_subset(const Gram &gram, const best_subset_options &options = {}, const run &r = {}) {
  result answer = detail::empty_result(gram);
  detail::solve<unmerge_best_subset_options>(unmerge_best_subset, answer, gram, options, r);
  return answer;
}

// atoms x k: column s - 1 is the answer of size s.
inline result best_subset_path(const Gram &gram, const best_subset_options &options = {}, const run &r = {}) {
  result answer;
  detail::shape(answer, gram.atoms(), options.k > 0 ? options.k : 0);
  detail::solve<unmerge_best_subset_options>(unmerge_best_subset_path, answer, gram, options, r);
  return answer;
}

// ---------------------------------------------------------------- verify and refine

// The certificate of coefficients (atoms x targets, row-major), recomputed from the data.
inline verification verify(const Operator &a, const Operator &y, const problem &p, span<const double> coef, const run &r = {}) {
  const std::int64_t n = a.columns(), targets = y.columns();
  if (coef.size() != detail::product(n, targets)) throw error(UNMERGE_E_SHAPE, "coef is not atoms x targets");
  verification answer;
  answer.residual_correlation.resize(coef.size());
  answer.reports = detail::reports(targets);
  const view_type w = view(coef.data(), n, targets), correlation = view(answer.residual_correlation.data(), n, targets);
  detail::call(r, [&](const unmerge_run *c, unmerge_error *e) {
    return unmerge_verify(a.get(), y.get(), &p, c, &w, &correlation, answer.reports.data(), e);
  });
  return answer;
}

// One refinement from the data; start.coef is the answer to refine.
inline result refine(const Gram &gram, const Operator &a, const Operator &y, const problem &p, const result &start,
                     const run &r = {}) {
  result answer = detail::empty_result(gram);
  if (start.coef.size() != answer.coef.size()) throw error(UNMERGE_E_SHAPE, "the coefficients to refine are not atoms x targets");
  answer.coef = start.coef;
  const view_type coef = view(answer.coef.data(), answer.atoms, answer.columns);
  detail::call(r, [&](const unmerge_run *c, unmerge_error *e) {
    return unmerge_refine(gram.get(), a.get(), y.get(), &p, c, &coef, answer.reports.data(), e);
  });
  return answer;
}

// ---------------------------------------------------------------- recipes and replay

// The merged weights of one module as they would be stored, into out: rows x cols of float or double.
inline void merge(const Operator &a, const Operator &base, const unmerge_recipe &how, std::int64_t module, const view_type &out,
                  const run &r = {}) {
  detail::call(r, [&](const unmerge_run *c, unmerge_error *e) {
    return unmerge_merge(a.get(), base.get(), &how, c, module, &out, e);
  });
}

struct replayed {
  std::vector<unmerge_replay_report> modules;
  unmerge_replay_report total{};

  // Of the stored values, those the recipe predicts: random methods, those it is consistent with, where that is known.
  double share() const noexcept {
    const std::int64_t right = total.consistent < 0 ? total.equal : total.consistent;
    return total.entries > 0 ? static_cast<double>(right) / static_cast<double>(total.entries)
                             : std::numeric_limits<double>::quiet_NaN();
  }
};

inline replayed replay(const Operator &a, const Operator &y, const unmerge_recipe &how, const run &r = {}) {
  using report = detail::initialised<unmerge_replay_report, unmerge_replay_report_init>;
  replayed answer;
  answer.modules.assign(detail::size(y.modules()) + 1, report());
  detail::call(r, [&](const unmerge_run *c, unmerge_error *e) {
    return unmerge_replay(a.get(), y.get(), &how, c, answer.modules.data(), e);
  });
  answer.total = answer.modules.back();
  answer.modules.pop_back();
  return answer;
}

// ---------------------------------------------------------------- attribution

// weights is atoms x modules, row-major; NaN where a module was not analysed.
struct attribution_modules {
  std::vector<double> weights, unexplained;
};

class Attribution : public detail::handle<unmerge_attribution, unmerge_attribution_destroy> {
public:
  using handle::handle;

  Attribution(const Operator &a, const Operator &y, const attribute_options &options = {}, const run &r = {}) {
    detail::call(r, [&](const unmerge_run *c, unmerge_error *e) {
      return unmerge_attribute(a.get(), y.get(), &options, c, &handle_, e);
    });
  }

  unmerge_attribution_info info() const {
    detail::initialised<unmerge_attribution_info, unmerge_attribution_info_init> i;
    detail::call([&](unmerge_error *e) { return unmerge_attribution_get_info(handle_, &i, e); });
    return i;
  }

  // In the order of the operator's columns.
  std::vector<unmerge_attributed_atom> atoms() const {
    using atom = detail::initialised<unmerge_attributed_atom, unmerge_attributed_atom_init>;
    std::vector<unmerge_attributed_atom> list(detail::size(info().atoms), atom());
    detail::call([&](unmerge_error *e) { return unmerge_attribution_atoms(handle_, list.data(), e); });
    return list;
  }

  attribution_modules modules() const {
    const unmerge_attribution_info i = info();
    attribution_modules m;
    m.weights.resize(detail::product(i.atoms, i.modules));
    m.unexplained.resize(detail::size(i.modules));
    const view_type w = view(m.weights.data(), i.atoms, i.modules);
    detail::call([&](unmerge_error *e) { return unmerge_attribution_modules(handle_, &w, m.unexplained.data(), e); });
    return m;
  }

  bool has_recipe() const { return info().has_recipe != 0; }

  // Its weights point into this attribution: keep it alive as long.
  unmerge::recipe recipe() const {
    unmerge::recipe found;
    detail::call([&](unmerge_error *e) { return unmerge_attribution_recipe(handle_, &found, e); });
    return found;
  }
};

inline Attribution attribute(const Operator &a, const Operator &y, const attribute_options &options = {}, const run &r = {}) {
  return Attribution(a, y, options, r);
}

} // namespace unmerge
#endif // UNMERGE_HPP
