// The part of the DLPack exchange format (https://dmlc.github.io/dlpack, version 1) that a flat
// byte tensor needs: a tensor, and the two shapes in which a capsule may carry it.
#pragma once

#include <cstdint>

namespace pdrt::dlpack {

inline constexpr int32_t kCpu = 1, kCuda = 2;  // device types
inline constexpr uint8_t kUnsigned = 1;        // type code
inline constexpr uint64_t kReadOnly = 1;       // flag
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

}  // namespace pdrt::dlpack
