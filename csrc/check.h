// Checks at the entrances of the extension. Errors of use become ValueError, those of the system
// OSError; the message names what was wrong, the value, and what to do.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>
#include <system_error>

namespace pdrt {

template <class... Parts>
std::string join(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  return text.str();
}

[[noreturn]] inline void throw_os_error(int code, const std::string& what) {
  throw std::system_error(code, std::generic_category(), what);
}

}  // namespace pdrt

#define PDRT_CHECK(condition, ...)                                            \
  do {                                                                        \
    if (!(condition)) throw std::invalid_argument(::pdrt::join(__VA_ARGS__)); \
  } while (0)
