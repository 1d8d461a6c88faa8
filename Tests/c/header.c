/* The header on its own, and its promises about layout: fixed structs keep their size, growable ones begin with their size. */
#include "unmerge.h"

#ifdef __cplusplus
#define ASSERT(name, condition) static_assert(condition, #name)
#else
#define ASSERT(name, condition) typedef char name[(condition) ? 1 : -1]
#endif

ASSERT(error_is_512_bytes, sizeof(unmerge_error) == 512);
ASSERT(view_is_48_bytes, sizeof(unmerge_view) == 48);
ASSERT(status_is_32_bits, sizeof(unmerge_status) == 4);
#define BEGINS_WITH_SIZE(type) ASSERT(type##_begins_with_size, offsetof(type, struct_size) == 0)
BEGINS_WITH_SIZE(unmerge_progress);
BEGINS_WITH_SIZE(unmerge_run);
BEGINS_WITH_SIZE(unmerge_report);
BEGINS_WITH_SIZE(unmerge_mask_options);
BEGINS_WITH_SIZE(unmerge_gram_options);
BEGINS_WITH_SIZE(unmerge_gram_info);
BEGINS_WITH_SIZE(unmerge_dot_options);
BEGINS_WITH_SIZE(unmerge_ridge_options);
BEGINS_WITH_SIZE(unmerge_lasso_options);
BEGINS_WITH_SIZE(unmerge_elastic_net_options);
BEGINS_WITH_SIZE(unmerge_path_options);
BEGINS_WITH_SIZE(unmerge_nnls_options);
BEGINS_WITH_SIZE(unmerge_omp_options);
BEGINS_WITH_SIZE(unmerge_pursuit_options);
BEGINS_WITH_SIZE(unmerge_thresholding_options);
BEGINS_WITH_SIZE(unmerge_best_subset_options);
BEGINS_WITH_SIZE(unmerge_mcp_options);
BEGINS_WITH_SIZE(unmerge_scad_options);
BEGINS_WITH_SIZE(unmerge_cel0_options);
BEGINS_WITH_SIZE(unmerge_lq_options);
BEGINS_WITH_SIZE(unmerge_slope_options);
BEGINS_WITH_SIZE(unmerge_term);
BEGINS_WITH_SIZE(unmerge_composite_options);
BEGINS_WITH_SIZE(unmerge_fused_lasso_options);
BEGINS_WITH_SIZE(unmerge_prox_options);
BEGINS_WITH_SIZE(unmerge_group_sparse_options);
BEGINS_WITH_SIZE(unmerge_group_sparse_report);
BEGINS_WITH_SIZE(unmerge_group_sparsity);
BEGINS_WITH_SIZE(unmerge_problem);

/* Layout of version 1.0.0 (64-bit): fields are only ever appended. */
ASSERT(run_1_0, sizeof(unmerge_run) == 72 && offsetof(unmerge_run, cancel) == 64);
ASSERT(report_1_0, sizeof(unmerge_report) == 128 && offsetof(unmerge_report, streamed) == 112 && offsetof(unmerge_report, df) == 120);
ASSERT(lasso_1_0, offsetof(unmerge_lasso_options, positive) == 28);
ASSERT(elastic_net_1_0, offsetof(unmerge_elastic_net_options, positive) == 36);
ASSERT(path_1_0, offsetof(unmerge_path_options, positive) == 56);
