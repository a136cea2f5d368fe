// A tensor that Python gave as an argument, and checks of it in a fixed order: device, dtype,
// shape, stride. Messages name the argument and both values.
//
// torch fills in a DLPack tensor through a C function (DLPack 1.3; torch 2.10 and newer), which
// takes some 50 ns; asking the same of its Python attributes takes a microsecond. No torch header
// is needed, and no version of torch is built against.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <initializer_list>
#include <string>

#include "dlpack.h"

namespace pdrt {

enum class Dtype { kFloat32, kBfloat16, kInt32, kInt64 };

class TensorArgument {
 public:
  // Throws std::invalid_argument where it is no tensor, or lies on no CPU.
  TensorArgument(const char* name, pybind11::handle object);

  template <typename T = void>
  T* data() const {
    return reinterpret_cast<T*>(static_cast<char*>(tensor_.data) + tensor_.byte_offset);
  }
  int64_t size(int dim) const { return tensor_.shape[dim]; }
  int64_t stride(int dim) const { return tensor_.strides[dim]; }
  bool is_bfloat16() const { return is(Dtype::kBfloat16); }

  // The dtype, where it is one of those that the kernels compute with; else throws.
  Dtype floating() const;

  // Throw std::invalid_argument where something differs.
  void check_dims(int ndim, const char* shape) const;  // shape: what it should be, in words
  void check(Dtype dtype, std::initializer_list<int64_t> shape) const;
  void check_contiguous() const;
  void check_whole(Dtype dtype, std::initializer_list<int64_t> shape) const;  // both of these
  // Of the last dimensions; those of size 1 say nothing.
  void check_strides(std::initializer_list<int64_t> last) const;

 private:
  bool is(Dtype dtype) const;
  std::string attribute(const char* attribute) const;
  std::string shape() const;
  std::string strides() const;

  const char* name_;
  pybind11::handle object_;
  dlpack::Tensor tensor_{};
};

}  // namespace pdrt
