#include "qstep/ir/strict_json.h"

#include <vector>

#include "qstep/core/error.h"

namespace qstep::ir {

Json parse_json(std::string_view text, std::string_view what) {
  constexpr int deepest = 16;
  std::vector<size_t> keys;  // of the objects that are open
  const auto check = [&](int depth, Json::parse_event_t event, Json& parsed) {
    require(depth <= deepest, "{}: JSON nests deeper than {} levels", what, deepest);
    switch (event) {
      case Json::parse_event_t::object_start:
        keys.push_back(0);
        break;
      case Json::parse_event_t::key:
        ++keys.back();
        break;
      case Json::parse_event_t::object_end:
        require(parsed.size() == keys.back(), "{}: a JSON object repeats a key", what);
        keys.pop_back();
        break;
      default:
        break;
    }
    return true;
  };
  try {
    return Json::parse(text, check);
  } catch (const Json::exception& error) {
    fail("{}: not valid JSON: {}", what, std::string_view(error.what()).substr(0, 200));
  }
}

}  // namespace qstep::ir
