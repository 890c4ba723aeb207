// The words by which Python names the core's enumerations.
#pragma once

#include <string>
#include <utility>

#include "arrays.h"
#include "stope/infonce.h"

namespace stope::python {

template <typename E>
using Word = std::pair<const char*, E>;

inline constexpr Word<Metric> kMetrics[] = {
    {"dot", Metric::kDot}, {"cosine", Metric::kCosine}, {"euclidean", Metric::kEuclidean}};
inline constexpr Word<Precision> kScanPrecisions[] = {
    {"exact", Precision::kExact}, {"bfloat16", Precision::kBFloat16}, {"int8", Precision::kInt8}};
inline constexpr Word<Precision> kInfoncePrecisions[] = {{"float32", Precision::kFloat32},
                                                         {"bfloat16", Precision::kBFloat16}};
inline constexpr Word<Objective> kObjectives[] = {
    {"out", Objective::kOut},           {"in", Objective::kIn},
    {"excl", Objective::kExcl},         {"decoupled", Objective::kDecoupled},
    {"hardness", Objective::kHardness}, {"pairwise", Objective::kPairwise},
    {"sigmoid", Objective::kSigmoid}};
inline constexpr Word<Hardness> kHardness[] = {{"in_batch_negatives", Hardness::kInBatchNegatives},
                                               {"hard_negatives", Hardness::kHardNegatives},
                                               {"all_negatives", Hardness::kAllNegatives}};

// What a word stands for, or a sentence with the words that there are.
template <typename E, std::size_t count>
E parse_word(const std::string& word, const char* name, const Word<E> (&words)[count]) {
  for (const Word<E>& known : words)
    if (word == known.first) return known.second;
  std::string sentence = std::string(name) + " is '" + word.substr(0, 80) + "'; give one of ";
  for (const Word<E>& known : words)
    sentence += (&known == words ? "'" : ", '") + std::string(known.first) + "'";
  throw py::value_error(sentence);
}

}  // namespace stope::python
