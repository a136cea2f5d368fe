#include "tensor_argument.h"

#include <algorithm>
#include <vector>

#include "check.h"

namespace py = pybind11;

namespace pdrt {
namespace {

struct Kind {
  uint8_t code, bits;
  const char* name;
};

const Kind& kind_of(Dtype dtype) {
  static constexpr Kind kKinds[] = {
      {dlpack::kFloat, 32, "torch.float32"},
      {dlpack::kBfloat, 16, "torch.bfloat16"},
      {dlpack::kSigned, 32, "torch.int32"},
      {dlpack::kSigned, 64, "torch.int64"},
  };
  return kKinds[static_cast<int>(dtype)];
}

// The functions of a type of tensors, remembered for the last type that was seen.
const dlpack::Exchange* exchange_of(PyTypeObject* type) {
  static PyTypeObject* known = nullptr;
  static const dlpack::Exchange* exchange = nullptr;
  if (type == known) return exchange;
  const auto object = reinterpret_cast<PyObject*>(type);
  const auto capsule = py::reinterpret_steal<py::object>(
      PyObject_GetAttrString(object, dlpack::Exchange::kAttribute));
  const void* found =
      capsule ? PyCapsule_GetPointer(capsule.ptr(), dlpack::Exchange::kName) : nullptr;
  if (found == nullptr) {
    PyErr_Clear();
    return nullptr;
  }
  const auto* candidate = static_cast<const dlpack::Exchange*>(found);
  if (candidate->version.major != dlpack::kMajor || candidate->fill == nullptr) return nullptr;
  Py_INCREF(object);  // a type that is never freed is never taken for another
  known = type;
  return exchange = candidate;
}

// As Python writes a tuple.
std::string tuple(const int64_t* values, size_t count) {
  std::string text = "(";
  for (size_t i = 0; i < count; ++i) text += join(i > 0 ? ", " : "", values[i]);
  return text + (count == 1 ? ",)" : ")");
}

}  // namespace

TensorArgument::TensorArgument(const char* name, py::handle object) : name_(name), object_(object) {
  const dlpack::Exchange* exchange = exchange_of(Py_TYPE(object.ptr()));
  PDRT_CHECK(exchange != nullptr, name_, " is ", std::string(py::repr(py::type::of(object))),
             ", expected a tensor of torch 2.10 or newer");
  const bool filled = exchange->fill(object.ptr(), &tensor_) == 0;
  if (!filled) PyErr_Clear();  // a meta tensor, for one, has no DLPack device
  PDRT_CHECK(filled && tensor_.device.type == dlpack::kCpu, name_, " is on ", attribute("device"),
             ", expected cpu");
}

Dtype TensorArgument::floating() const {
  if (is(Dtype::kBfloat16)) return Dtype::kBfloat16;
  PDRT_CHECK(is(Dtype::kFloat32), name_, " is ", attribute("dtype"), ", expected torch.float32");
  return Dtype::kFloat32;
}

void TensorArgument::check_dims(int ndim, const char* expected) const {
  PDRT_CHECK(tensor_.ndim == ndim, name_, " has shape ", shape(), ", expected ", expected);
}

void TensorArgument::check(Dtype dtype, std::initializer_list<int64_t> expected) const {
  PDRT_CHECK(is(dtype), name_, " is ", attribute("dtype"), ", expected ", kind_of(dtype).name);
  PDRT_CHECK(
      std::equal(expected.begin(), expected.end(), tensor_.shape, tensor_.shape + tensor_.ndim),
      name_, " has shape ", shape(), ", expected ", tuple(expected.begin(), expected.size()));
}

void TensorArgument::check_contiguous() const {
  int64_t expected = 1;
  for (int dim = tensor_.ndim - 1; dim >= 0; --dim) {
    if (size(dim) == 0) return;  // there is nothing that could lie apart
    PDRT_CHECK(size(dim) == 1 || stride(dim) == expected, name_, " ", shape(), " has strides ",
               strides(), ", expected a contiguous tensor");
    expected *= size(dim);
  }
}

void TensorArgument::check_whole(Dtype dtype, std::initializer_list<int64_t> expected) const {
  check(dtype, expected);
  check_contiguous();
}

void TensorArgument::check_strides(std::initializer_list<int64_t> last) const {
  int dim = tensor_.ndim - static_cast<int>(last.size());
  for (const int64_t* expected = last.begin(); expected != last.end(); ++expected, ++dim)
    PDRT_CHECK(size(dim) <= 1 || stride(dim) == *expected, name_, " has last strides ",
               tuple(tensor_.strides + tensor_.ndim - last.size(), last.size()), ", expected ",
               tuple(last.begin(), last.size()));
}

bool TensorArgument::is(Dtype dtype) const {
  const Kind& kind = kind_of(dtype);
  return tensor_.dtype.code == kind.code && tensor_.dtype.bits == kind.bits;
}

std::string TensorArgument::attribute(const char* attribute) const {
  return py::str(object_.attr(attribute));
}

std::string TensorArgument::shape() const { return tuple(tensor_.shape, tensor_.ndim); }

std::string TensorArgument::strides() const { return tuple(tensor_.strides, tensor_.ndim); }

}  // namespace pdrt
