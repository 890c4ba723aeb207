// An operation's tasks: in parallel, and between them progress is told and Ctrl-C heard.
#pragma once

#include <type_traits>

#include "parallel.h"
#include "stope/error.h"
#include "stope/matrix.h"

namespace stope {

// How far an operation is; false where it should end.
inline bool tell(const Execution& execution, std::int64_t done, std::int64_t total) {
  const Progress& progress = execution.progress;
  return progress.step == nullptr || progress.step(progress.context, done, total);
}

// body(task, thread) for every task in [0, tasks); told() tells in between, and ends it by false.
template <typename Told, typename Body>
void run_tasks(const Execution& execution, std::int64_t tasks, Told&& told, Body&& body) {
  using Plain = std::remove_reference_t<Told>;
  const Poll poll = [](void* context) { return (*static_cast<Plain*>(context))(); };
  void* context = const_cast<void*>(static_cast<const void*>(&told));
  if (!parallel_for(execution.threads, tasks, body, poll, context)) throw Interrupted();
}

}  // namespace stope
