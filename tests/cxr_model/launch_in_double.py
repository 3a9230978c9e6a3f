"""`cxr_model.launch` with every float32 of the library replaced by float64."""

import torch


def use_double() -> None:
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]


if __name__ == "__main__":
    use_double()
    from cxr_model.launch import main

    main()
