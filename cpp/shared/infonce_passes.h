// Which sets of rows and columns infonce scores, and by which rules columns are dropped.
//
// Row i of a pass adds to the loss of query i, whatever its rows are. Either device makes its own
// sides (rows of matrices, packed its own way) from these rules.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "infonce_terms.h"

namespace stope {

enum class InfoncePassKind : std::int32_t {
  kQueryToDocument,
  kQueryToQueue,
  kQueryToQuery,
  kDocumentToQuery,
  kDocumentToDocument
};
inline constexpr int kMostInfoncePasses = 5;

// The matrices, in the order in which both devices number them: the guide's are three further on.
inline constexpr int kQueries = 0, kDocuments = 1, kQueue = 2, kGuide = 3, kInfonceMatrices = 6;
inline constexpr const char* kInfonceNames[kInfonceMatrices] = {
    "queries", "documents", "queue", "guide_queries", "guide_documents", "guide_queue"};

STOPE_SHARED const Matrix& matrix_of(const InfonceProblem& p, int number) {
  switch (number) {
    case kQueries: return p.queries;
    case kDocuments: return p.documents;
    case kQueue: return p.queue;
    case kGuide + kQueries: return p.guide_queries;
    case kGuide + kDocuments: return p.guide_documents;
    default: return p.guide_queue;
  }
}

// Rows are queries, or else the one positive of every query.
STOPE_SHARED bool from_queries(InfoncePassKind kind) {
  return kind == InfoncePassKind::kQueryToDocument || kind == InfoncePassKind::kQueryToQueue ||
         kind == InfoncePassKind::kQueryToQuery;
}
// The number of the matrix of columns.
STOPE_SHARED int columns_of(InfoncePassKind kind) {
  if (kind == InfoncePassKind::kQueryToQueue) return kQueue;
  return kind == InfoncePassKind::kQueryToQuery || kind == InfoncePassKind::kDocumentToQuery
             ? kQueries
             : kDocuments;
}

struct InfoncePassRules {
  InfoncePassKind kind;
  const std::int32_t* groups = nullptr;  // of the columns
  const float* log_weights = nullptr;    // of the columns
  const std::int32_t* hidden = nullptr;  // columns flagged 1 are other rows' hard negatives
  bool limited = false;                  // whether the limits apply
  bool guided = false;                   // whether they apply to the guide's scores
  std::int64_t first_id = -1;  // id of column 0 among best negatives; -1: they come from elsewhere
};

STOPE_SHARED double multiplier_of(const InfonceProblem& p, InfoncePassKind kind) {
  const bool harder =
      kind == InfoncePassKind::kQueryToDocument || kind == InfoncePassKind::kQueryToQueue;
  return harder ? in_batch_multiplier(p) : p.scale;
}

// Whether some columns are flagged as hard negatives, of others or for documents.
inline bool hides_columns(const InfonceProblem& p) {
  return p.hard_negatives.offsets != nullptr &&
         !(p.foreign_hard_negatives && p.documents_see_hard_negatives);
}
// Whether a pass has rows that are no queries, or columns that are rows, too.
inline bool has_other_directions(const InfonceProblem& p) {
  return p.directions.query_to_query || p.directions.document_to_query ||
         p.directions.document_to_document;
}

// add(rules) for every pass, in order. `query_groups` are those of the queries' first positives,
// `hidden` the flags of the documents.
template <typename Add>
void each_pass(const InfonceProblem& p, const std::int32_t* query_groups,
               const std::int32_t* hidden, Add add) {
  using Kind = InfoncePassKind;
  const bool guided = p.has_guide;
  add(InfoncePassRules{Kind::kQueryToDocument, p.document_groups, p.log_weights,
                       p.foreign_hard_negatives ? nullptr : hidden, true, guided, 0});
  if (p.queue.rows > 0)
    add(InfoncePassRules{Kind::kQueryToQueue, p.queue_groups, nullptr, nullptr, true, guided,
                         p.documents.rows});
  if (p.directions.query_to_query)
    add(InfoncePassRules{Kind::kQueryToQuery, query_groups, nullptr, nullptr, true, guided});
  if (p.directions.document_to_query)
    add(InfoncePassRules{Kind::kDocumentToQuery, query_groups, nullptr, nullptr, guided, guided});
  if (p.directions.document_to_document)
    add(InfoncePassRules{Kind::kDocumentToDocument, p.document_groups, p.log_weights, hidden,
                         guided, guided});
}

// Refuses a call whose results do not fit float32.
[[noreturn]] inline void refuse_beyond(const char* what, std::int64_t row) {
  throw std::invalid_argument(std::string(what) + "[" + std::to_string(row) +
                              "] is beyond float32; raise temperature, or make the rows shorter");
}

// The entries of the positives by document, in ascending order: list j is
// entries[offsets[j]] .. [offsets[j + 1] - 1].
inline void order_by_document(const IdLists& lists, std::int64_t entry_count,
                              std::int64_t documents, std::int64_t* offsets,
                              std::int64_t* entries) {
  for (std::int64_t j = 0; j <= documents; ++j) offsets[j] = 0;
  for (std::int64_t e = 0; e < entry_count; ++e) ++offsets[lists.ids[e] + 1];
  for (std::int64_t j = 0; j < documents; ++j) offsets[j + 1] += offsets[j];
  for (std::int64_t e = entry_count - 1; e >= 0; --e) entries[--offsets[lists.ids[e] + 1]] = e;
  // Every end has moved down to its start: offsets are one place too far on.
  for (std::int64_t j = 0; j < documents; ++j) offsets[j] = offsets[j + 1];
  offsets[documents] = entry_count;
}

}  // namespace stope
