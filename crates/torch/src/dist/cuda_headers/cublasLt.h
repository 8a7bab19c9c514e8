// ATen/cuda/CUDAContextLight.h names the handle.
#pragma once
typedef struct cublasLtContext* cublasLtHandle_t;
