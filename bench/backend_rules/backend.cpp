// A ggml backend without a device: it computes nothing and holds nothing, but has the rules of one
// of llama.cpp's GPU backends by which the scheduler and the allocator decide: what its devices
// can do, how tensors lie in its buffers, what it takes to itself from the host, and what it does
// to a graph before memory is found for it. These rules are the backends' own code, cut out of
// their sources (`__init__.py`); what is written here is the frame around them.

#include "ggml-backend-impl.h"
#include "ggml-cpu.h"
#include "ggml-impl.h"
#define GGML_COMMON_DECL_CPP
#include "ggml-common.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#define VK_LOG_DEBUG(x)
#define TOPK_MOE_ROWS_PER_BLOCK 4

namespace cuda {
struct ggml_backend_cuda_context {};
static int cc = 860;
#include "cuda.inc"
}

namespace vulkan {
struct vk_device_rules { bool disable_graph_optimize = false; };
struct ggml_backend_vk_context { vk_device_rules * device; };
#include "vulkan.inc"
}

namespace sycl_rules {
#include "sycl.inc"
}

extern "C" {
#include "ggml-metal-impl.h"
#include "ggml-metal-device.h"
#include "ggml-metal-fusion.h"
#include "ggml-metal-common.h"
void ggml_graph_optimize(struct ggml_cgraph * gf);
// asked for by what only runs while a graph is computed
ggml_metal_buffer_id ggml_metal_buffer_get_id(ggml_metal_buffer_t, const struct ggml_tensor *) { return {}; }
}
namespace metal {
#include "metal.inc"
}

#include "kernels.inc"

enum Kind { CUDA, VULKAN, METAL, SYCL, CANN };

static struct {
    Kind kind;
    std::string name, host_name;
    size_t alignment;
    bool host_buffer, async, events, integrated, optimizes;
    FILE * nodes;
} rules;

struct device_context { std::string name; ggml_backend_buffer_type buft, host_buft; };

// buffers

static const char * buft_name(ggml_backend_buffer_type_t buft) {
    return ((device_context *) buft->context)->name.c_str();
}

static const char * host_buft_name(ggml_backend_buffer_type_t) {
    return rules.host_name.c_str();
}

static void * aligned_base(ggml_backend_buffer_t buffer) {
    return (void *) GGML_PAD((uintptr_t) buffer->context, rules.alignment);
}

static ggml_backend_buffer_t alloc_buffer(ggml_backend_buffer_type_t buft, size_t size) {
    ggml_backend_buffer_type_t cpu = ggml_backend_cpu_buffer_type();
    ggml_backend_buffer_t buffer = cpu->iface.alloc_buffer(cpu, size + rules.alignment);
    if (buffer) {
        buffer->buft = buft;
        buffer->size = size;
        buffer->iface.get_base = aligned_base;
    }
    return buffer;
}

static size_t alignment(ggml_backend_buffer_type_t) {
    return rules.alignment;
}

static size_t padded_rows(const ggml_tensor * tensor, size_t size) {
    const int64_t padding = 512; // MATRIX_ROW_PADDING
    if (ggml_is_quantized(tensor->type) && tensor->ne[0] % padding != 0) {
        size += ggml_row_size(tensor->type, padding - tensor->ne[0] % padding);
    }
    return size;
}

static size_t alloc_size(ggml_backend_buffer_type_t, const ggml_tensor * tensor) {
    switch (rules.kind) {
        case CUDA:
            return padded_rows(tensor, tensor->op == GGML_OP_FLASH_ATTN_EXT ? cuda::attention_size(tensor) : ggml_nbytes(tensor));
        case METAL:
            return metal::ggml_backend_metal_buffer_type_get_alloc_size(nullptr, tensor);
        case SYCL:
            return padded_rows(tensor, tensor->op == GGML_OP_FLASH_ATTN_EXT ? sycl_rules::ggml_sycl_flash_attn_ext_get_alloc_size(tensor) : ggml_nbytes(tensor));
        case CANN:
            return padded_rows(tensor, ggml_nbytes(tensor));
        case VULKAN:
            break;
    }
    return ggml_nbytes(tensor);
}

static bool not_host(ggml_backend_buffer_type_t) {
    return false;
}

// the backend

static const char * backend_name(ggml_backend_t backend) {
    return ((device_context *) backend->device->context)->name.c_str();
}

static void backend_free(ggml_backend_t backend) {
    delete backend;
}

static ggml_status graph_compute(ggml_backend_t, ggml_cgraph *) {
    return GGML_STATUS_FAILED;
}

// what a backend asks for, written down on its way to the scheduler
static void note_dep(void * params, ggml_tensor * tensor, ggml_tensor * until) {
    auto * asked = (ggml_backend_graph_optimize_params *) params;
    if (rules.nodes) {
        fprintf(rules.nodes, "keep %p until %p\n", (const void *) tensor, (const void *) until);
    }
    asked->add_alloc_dep(asked->user_data, tensor, until);
}

static void note_nodes(const ggml_backend_t backend, const ggml_cgraph * graph) {
    static ggml_tensor ** end = nullptr;
    static void * whole = nullptr;
    if (graph->nodes < end || graph->use_counts != whole) {
        fprintf(rules.nodes, "graph\n");
    }
    end   = graph->nodes + graph->n_nodes;
    whole = graph->use_counts;
    fprintf(rules.nodes, "split %d on %s\n", graph->n_nodes, backend_name(backend));
    for (int i = 0; i < graph->n_nodes; i++) {
        const ggml_tensor * t = graph->nodes[i];
        fprintf(rules.nodes, "%p %s [%lld %lld %lld %lld] [%zu %zu %zu %zu] %s view=%p %s:", (const void *) t, ggml_op_desc(t),
            (long long) t->ne[0], (long long) t->ne[1], (long long) t->ne[2], (long long) t->ne[3],
            t->nb[0], t->nb[1], t->nb[2], t->nb[3],
            ggml_type_name(t->type), (const void *) t->view_src, t->name);
        for (int j = 0; j < GGML_MAX_SRC && t->src[j]; j++) {
            fprintf(rules.nodes, " %p(%s)", (const void *) t->src[j], t->src[j]->name);
        }
        fprintf(rules.nodes, "\n");
    }
}

static std::unordered_map<std::string, size_t> lying; // where weights lie in their file

// Says where the weight `name` lies in part `part` of the file; a name of null: in no file any more.
extern "C" void place(const char * name, int part, size_t offset) {
    if (name) {
        lying[name] = ((size_t) (part + 1) << 48) + offset;
    } else {
        lying.clear();
    }
}

// Metal goes by where caches and weights lie, and in a dry run all of them lie at address 0 of one
// buffer: puts them where a load does, and says where they were. Its weights are those of the file
// as it is mapped (`llama_model_base::load_tensors`), caches one behind the other.
static std::unordered_map<ggml_tensor *, void *> as_if_loaded(const ggml_cgraph * graph) {
    std::set<ggml_tensor *> stored; // by address: in the order in which they were made
    std::unordered_map<ggml_tensor *, void *> before;
    auto note = [&](ggml_tensor * t) {
        t = t && t->view_src ? t->view_src : t;
        if (!t || !t->buffer || before.count(t)) {
            return;
        }
        auto found = lying.find(t->name);
        if (t->buffer->usage == GGML_BACKEND_BUFFER_USAGE_WEIGHTS && found != lying.end()) {
            before[t] = t->data;
            t->data = (void *) found->second;
        } else if (!t->data) {
            before[t] = nullptr;
            stored.insert(t);
        }
    };
    for (int i = 0; i < graph->n_nodes; i++) {
        note(graph->nodes[i]);
        for (ggml_tensor * src : graph->nodes[i]->src) {
            note(src);
        }
    }
    std::unordered_map<ggml_backend_buffer_t, size_t> ends;
    for (ggml_tensor * t : stored) {
        size_t & end = ends.emplace(t->buffer, 4096).first->second;
        t->data = (void *) end;
        end += GGML_PAD(alloc_size(nullptr, t), rules.alignment);
    }
    return before;
}

static void graph_optimize(ggml_backend_t backend, ggml_cgraph * graph, ggml_backend_graph_optimize_params * params) {
    if (rules.nodes) {
        note_nodes(backend, graph);
    }
    ggml_backend_graph_optimize_params noting = { note_dep, params };
    if (rules.optimizes && rules.kind == CUDA) {
        cuda::ggml_backend_cuda_context context;
        ggml_backend inner = *backend;
        inner.context = &context;
        cuda::ggml_backend_cuda_graph_optimize(&inner, graph, &noting);
    } else if (rules.optimizes && rules.kind == VULKAN) {
        vulkan::vk_device_rules device;
        vulkan::ggml_backend_vk_context context = { &device };
        ggml_backend inner = *backend;
        inner.context = &context;
        vulkan::ggml_vk_graph_optimize(&inner, graph, &noting);
    } else if (rules.optimizes && rules.kind == METAL) {
        ggml_metal_fusion_add_alloc_deps(noting.user_data, noting.add_alloc_dep, graph);
        const auto before = as_if_loaded(graph);
        ggml_graph_optimize(graph);
        for (auto [t, data] : before) {
            t->data = data;
        }
    }
    if (rules.nodes) {
        fprintf(rules.nodes, "order");
        for (int i = 0; i < graph->n_nodes; i++) {
            fprintf(rules.nodes, " %p", (const void *) graph->nodes[i]);
        }
        fprintf(rules.nodes, "\n");
        fflush(rules.nodes);
    }
}

static void event_record(ggml_backend_t, ggml_backend_event_t) {}
static void event_wait(ggml_backend_t, ggml_backend_event_t) {}
static void synchronize(ggml_backend_t) {}

static ggml_guid guid = { 0x6b, 0x76, 0x63, 0x68, 0x61, 0x74, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 };

// devices

static const char * dev_name(ggml_backend_dev_t dev) {
    return ((device_context *) dev->context)->name.c_str();
}

static void dev_memory(ggml_backend_dev_t, size_t * free, size_t * total) {
    *free = *total = (size_t) 1 << 50;
}

static enum ggml_backend_dev_type dev_type(ggml_backend_dev_t) {
    return rules.integrated ? GGML_BACKEND_DEVICE_TYPE_IGPU : GGML_BACKEND_DEVICE_TYPE_GPU;
}

static void dev_props(ggml_backend_dev_t dev, ggml_backend_dev_props * props) {
    props->name = dev_name(dev);
    props->description = dev_name(dev);
    props->type = dev_type(dev);
    props->device_id = nullptr;
    dev_memory(dev, &props->memory_free, &props->memory_total);
    props->caps = { rules.async, rules.host_buffer, false, rules.events, true };
}

static ggml_backend_t dev_init(ggml_backend_dev_t dev, const char *) {
    auto * backend = new ggml_backend{};
    backend->guid = &guid;
    backend->iface.get_name = backend_name;
    backend->iface.free = backend_free;
    backend->iface.synchronize = synchronize;
    backend->iface.graph_compute = graph_compute;
    backend->iface.event_record = event_record;
    backend->iface.event_wait = event_wait;
    backend->iface.graph_optimize = graph_optimize;
    backend->device = dev;
    return backend;
}

static ggml_backend_buffer_type_t dev_buft(ggml_backend_dev_t dev) {
    return &((device_context *) dev->context)->buft;
}

static ggml_backend_buffer_type_t dev_host_buft(ggml_backend_dev_t dev) {
    return rules.host_buffer ? &((device_context *) dev->context)->host_buft : nullptr;
}

static bool has_kernel(const ggml_tensor * op) {
    switch (rules.kind) {
        case CUDA: return cuda_kernels::has_kernel(op);
        case VULKAN: return vulkan_kernels::has_kernel(op);
        case METAL: return metal_kernels::has_kernel(op);
        case SYCL: return sycl_kernels::has_kernel(op);
        case CANN: break;
    }
    return true;
}

static bool supports_op(ggml_backend_dev_t, const ggml_tensor * op) {
    if (op->op == GGML_OP_FLASH_ATTN_EXT && rules.kind == CUDA) {
        return cuda::ggml_cuda_get_best_fattn_kernel(0, op) != cuda::BEST_FATTN_KERNEL_NONE;
    }
    return has_kernel(op);
}

static bool supports_buft(ggml_backend_dev_t dev, ggml_backend_buffer_type_t buft) {
    auto * context = (device_context *) dev->context;
    return buft == &context->buft || (rules.integrated && rules.kind == CUDA && buft->iface.get_name == host_buft_name);
}

static bool offload_op(ggml_backend_dev_t, const ggml_tensor * op) {
    const char * said = getenv("GGML_OP_OFFLOAD_MIN_BATCH");
    const int64_t least = said ? atoi(said) : 32;
    switch (rules.kind) {
        case CUDA: return cuda::get_op_batch_size(op) >= least;
        case VULKAN: return vulkan::ggml_vk_get_op_batch_size(op) >= least;
        case METAL: return (op->op == GGML_OP_MUL_MAT || op->op == GGML_OP_MUL_MAT_ID) && metal::get_op_batch_size(op) >= least;
        case SYCL: return cuda::get_op_batch_size(op) >= least;
        case CANN: return op->ne[1] >= least && op->op != GGML_OP_GET_ROWS;
    }
    return false;
}

static ggml_backend_event_t event_new(ggml_backend_dev_t dev) {
    return new ggml_backend_event{ dev, nullptr };
}

static void event_free(ggml_backend_dev_t, ggml_backend_event_t event) {
    delete event;
}

static void event_synchronize(ggml_backend_dev_t, ggml_backend_event_t) {}

// the registry

static std::vector<ggml_backend_device> devices;

static const char * reg_name(ggml_backend_reg_t) {
    return rules.name.c_str();
}

static size_t reg_count(ggml_backend_reg_t) {
    return devices.size();
}

static ggml_backend_dev_t reg_device(ggml_backend_reg_t, size_t i) {
    return &devices[i];
}

static void * reg_address(ggml_backend_reg_t, const char *) {
    return nullptr;
}

static ggml_backend_reg reg = { GGML_BACKEND_API_VERSION, { reg_name, reg_count, reg_device, reg_address }, nullptr };

// Makes `count` devices with the rules of `name` known to the engine. `without_optimize`: as if
// the backend left graphs as they are; `nodes`: a file that gets every graph as it comes, or null.
extern "C" int pose_as(const char * name, int count, int capability, int integrated, int without_optimize, const char * nodes) {
    static const struct { const char * name; Kind kind; size_t alignment; bool host_buffer, async, events; } known[] = {
        { "CUDA",   CUDA,   128, true,  true,  true },
        { "ROCm",   CUDA,   128, true,  true,  true },
        { "MUSA",   CUDA,   128, true,  true,  true },
        { "Vulkan", VULKAN, 32,  true,  true,  true },
        { "Metal",  METAL,  32,  false, true,  true },
        { "SYCL",   SYCL,   128, true,  true,  true },
        { "CANN",   CANN,   128, true,  false, true },
    };
    for (const auto & row : known) {
        if (strcmp(row.name, name) != 0) {
            continue;
        }
        rules = { row.kind, row.name, std::string(row.name) + "_Host", row.alignment, row.host_buffer,
                  row.async, row.events, integrated != 0, !without_optimize, nodes ? fopen(nodes, "w") : nullptr };
        cuda::cc = capability;
        devices.resize(count);
        for (int i = 0; i < count; i++) {
            auto * context = new device_context{ rules.name + std::to_string(i), {}, {} };
            devices[i] = { { dev_name, dev_name, dev_memory, dev_type, dev_props, dev_init, dev_buft, dev_host_buft,
                             nullptr, supports_op, supports_buft, offload_op, event_new, event_free, event_synchronize },
                           &reg, context };
            context->buft = { { buft_name, alloc_buffer, alignment, nullptr, alloc_size, not_host }, &devices[i], context };
            context->host_buft = *ggml_backend_cpu_buffer_type();
            context->host_buft.device = &devices[i];
            context->host_buft.context = nullptr;
            context->host_buft.iface.get_name = host_buft_name;
            context->host_buft.iface.alloc_buffer = alloc_buffer;
        }
        ggml_backend_register(&reg);
        return 0;
    }
    return 1;
}
