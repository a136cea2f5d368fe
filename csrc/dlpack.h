// The part of the DLPack exchange format (https://dmlc.github.io/dlpack, version 1) that is needed
// here: a tensor, the two shapes in which a capsule may carry one, and the table of C functions by
// which a type of tensors can be read without a capsule.
#pragma once

#include <cstdint>

namespace pdrt::dlpack {

inline constexpr int32_t kCpu = 1, kCuda = 2;                                  // device types
inline constexpr uint8_t kSigned = 0, kUnsigned = 1, kFloat = 2, kBfloat = 4;  // type codes
inline constexpr uint64_t kReadOnly = 1;                                       // flag
inline constexpr uint32_t kMajor = 1, kMinor = 0;

struct Device {
  int32_t type, id;
};

struct Tensor {
  void* data;
  Device device;
  int32_t ndim;
  struct {
    uint8_t code, bits;
    uint16_t lanes;
  } dtype;
  int64_t* shape;
  int64_t* strides;  // in elements
  uint64_t byte_offset;
};

struct Managed {
  static constexpr const char* kName = "dltensor";
  Tensor tensor;
  void* context;
  void (*deleter)(Managed*);
};

struct Versioned {
  static constexpr const char* kName = "dltensor_versioned";
  struct {
    uint32_t major, minor;
  } version;
  void* context;
  void (*deleter)(Versioned*);
  uint64_t flags;
  Tensor tensor;
};

// A type's attribute holds a capsule of it. What stands for a function here is not used.
struct Exchange {
  static constexpr const char* kAttribute = "__dlpack_c_exchange_api__";
  static constexpr const char* kName = "dlpack_exchange_api";
  struct {
    uint32_t major, minor;
  } version;
  const void* older;
  void *allocate, *to_managed, *from_managed;
  int (*fill)(void* object, Tensor* tensor);  // lends what the object has; 0 if it could
  void* stream;
};

}  // namespace pdrt::dlpack
