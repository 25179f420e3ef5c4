#pragma once
// JSON as the checkpoint has it: no duplicate keys, little nesting.
#include <nlohmann/json.hpp>
#include <string_view>

namespace qstep::ir {

using Json = nlohmann::json;                 ///< for reading: look-up by key in logarithmic time
using OrderedJson = nlohmann::ordered_json;  ///< for writing: keys stay in the order of the format's description

/// Throws Error, naming `what`, for text that is not JSON, nests deeper than 16 levels or repeats a key.
Json parse_json(std::string_view text, std::string_view what);

}  // namespace qstep::ir
