// Work on parts of the vocabulary, each in a thread.
#pragma once

#include <algorithm>
#include <thread>
#include <utility>
#include <vector>

#include "products.hpp"

// OpenMP's own threads, if PyTorch has brought them: others would share the cores with these, which spin for a while.
extern "C" {
[[gnu::weak]] void GOMP_parallel(void (*function)(void*), void* data, unsigned threads, unsigned flags);
[[gnu::weak]] int omp_get_thread_num();
[[gnu::weak]] int omp_get_num_threads();
}

namespace {

// The vocabulary in as many parts as there are threads, in whole steps.
inline std::vector<std::pair<int64_t, int64_t>> parts_of(int64_t vocabulary, int64_t threads, int64_t step) {
    const int64_t share = std::max(rounded_up((vocabulary + threads - 1) / threads, step), step);
    std::vector<std::pair<int64_t, int64_t>> parts;
    for (int64_t start = 0; start < vocabulary; start += share)
        parts.emplace_back(start, std::min(start + share, vocabulary));
    return parts;
}

template <class Work>
void in_threads(int64_t count, const Work& work) {
    if (count <= 1 || !GOMP_parallel || !omp_get_thread_num || !omp_get_num_threads) {
        std::vector<std::thread> others;
        for (int64_t i = 1; i < count; ++i) others.emplace_back([&work, i] { work(i); });
        if (count) work(0);
        for (auto& other : others) other.join();
        return;
    }
    std::pair<int64_t, const Work*> task(count, &work);
    const auto run = [](void* given) {
        const auto& [count, work] = *static_cast<std::pair<int64_t, const Work*>*>(given);
        for (int64_t i = omp_get_thread_num(); i < count; i += omp_get_num_threads()) (*work)(i);
    };
    GOMP_parallel(run, &task, count, 0);
}

// Ask for large pages where memory is not touched yet: it is cleared faster, and its rows are found faster.
inline void use_large_pages(void* start, int64_t bytes) {
    constexpr int64_t PAGE = 1 << 21;
    const int64_t address = reinterpret_cast<int64_t>(start);
    const int64_t first = rounded_up(address, PAGE), last = (address + bytes) / PAGE * PAGE;
    if (last > first) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
}

}  // namespace
