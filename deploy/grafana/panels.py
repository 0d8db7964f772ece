"""The few kinds of panel that the dashboards are made of, on Grafana's own typed builders."""

from __future__ import annotations

from collections.abc import Sequence

from grafana_foundation_sdk.builders import common, heatmap, stat, statushistory, table, timeseries
from grafana_foundation_sdk.builders.dashboard import (
    Dashboard,
    DashboardLink,
    FieldColor,
    QueryVariable,
    Row,
    ThresholdsConfig,
)
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.common import (
    AxisPlacement,
    DataSourceRef,
    FieldTextAlignment,
    GraphThresholdsStyleMode,
    HeatmapCellLayout,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE = DataSourceRef("prometheus", "lccl-prometheus")  # the uid in provisioning/datasources
MODEL = ("model", "Model", "label_values(lccl_model_info, model)")
INSTANCE = ("instance", "Replica", 'label_values(up{job="lccl"}, instance)')

AnyPanel = timeseries.Panel | heatmap.Panel | stat.Panel | statushistory.Panel | table.Panel
Section = tuple[str, Sequence[AnyPanel]]


def quantiles(metric: str, selector: str, *shares: float) -> dict[str, str]:
    """Queries for quantiles of a histogram, by their legend: p50 and so on."""
    rate = f"sum by (le) (rate({metric}_bucket{selector}[$__rate_interval]))"
    return {f"p{100 * share:g}": f"histogram_quantile({share:g}, {rate})" for share in shares}


def lines(
    title: str,
    text: str,
    unit: str,
    queries: dict[str, str],
    width: int = 8,
    *,
    stacked: bool = False,
    least: float | None = 0,
    most: float | None = None,
    limits: tuple[float, float] | None = None,
) -> timeseries.Panel:
    """Values over time, one line for each series; ``limits`` marks what lies outside as too little or too much."""
    panel = timeseries.Panel().title(title).description(text).datasource(SOURCE).unit(unit).span(width).height(8)
    for reference, (legend, expression) in zip("ABCDEFGH", queries.items(), strict=False):
        panel.with_target(Dataquery().expr(expression).legend_format(legend).range().ref_id(reference))
    panel.line_width(1).fill_opacity(30 if stacked else 8).show_points(VisibilityMode.NEVER)
    if stacked:
        panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL).group("A"))
    if least is not None:
        panel.min(least)
    if most is not None:
        panel.max(most)
    if limits is not None:
        steps = [("red", None), ("green", limits[0]), ("red", limits[1])]
        panel.thresholds(ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(_steps(steps)))
        panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.DASHED))
    shown = common.VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM)
    tooltip = common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING)
    return panel.legend(shown.show_legend(True).calcs([])).tooltip(tooltip)


def buckets(title: str, text: str, unit: str, expression: str, width: int = 8) -> heatmap.Panel:
    """A histogram over time; the expression keeps the label ``le``."""
    panel = heatmap.Panel().title(title).description(text).datasource(SOURCE).span(width).height(8)
    query = Dataquery().expr(expression).legend_format("{{le}}").format(PromQueryFormat.HEATMAP).range().ref_id("A")
    axis = heatmap.YAxisConfig().unit(unit).axis_placement(AxisPlacement.LEFT)
    colour = (
        heatmap.HeatmapColorOptions()
        .mode(HeatmapColorMode.SCHEME)
        .scheme("Oranges")
        .fill("dark-orange")
        .steps(32)
        .exponent(0.5)
    )
    rows = heatmap.RowsHeatmapOptions().layout(HeatmapCellLayout.AUTO)
    return panel.with_target(query).y_axis(axis).color(colour).rows_frame(rows).mode(TooltipDisplayMode.SINGLE)


def rows(title: str, text: str, unit: str, legend: str, expression: str, width: int = 24) -> statushistory.Panel:
    """A heatmap with a row for each series; from 0, pale, to 1, dark."""
    panel = statushistory.Panel().title(title).description(text).datasource(SOURCE).unit(unit).span(width).height(12)
    panel.with_target(Dataquery().expr(expression).legend_format(legend).range().ref_id("A"))
    panel.max_data_points(120).min(0).max(1).color_scheme(FieldColor().mode(model.FieldColorModeId.CONTINUOUS_BLUES))
    return (
        panel.show_value(VisibilityMode.NEVER)
        .row_height(0.95)
        .per_page(64)
        .legend(common.VizLegendOptions().show_legend(False))
    )


def number(
    title: str, text: str, unit: str, expression: str, steps: Sequence[tuple[str, float | None]], width: int = 4
) -> stat.Panel:
    """The latest value, coloured by steps: each colour from its value on."""
    panel = stat.Panel().title(title).description(text).datasource(SOURCE).unit(unit).span(width).height(4)
    panel.with_target(Dataquery().expr(expression).instant().ref_id("A"))
    return panel.thresholds(ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(_steps(steps)))


def labels(title: str, text: str, expression: str, width: int) -> table.Panel:
    """The labels of a metric that is always 1."""
    panel = table.Panel().title(title).description(text).datasource(SOURCE).span(width).height(4)
    panel.with_target(Dataquery().expr(expression).format(PromQueryFormat.TABLE).instant().ref_id("A"))
    hidden = {"excludeByName": {"Time": True, "Value": True}}
    panel.with_transformation(model.DataTransformerConfig(id_val="organize", options=hidden))
    return panel.align(FieldTextAlignment.LEFT)


def dashboard(
    uid: str, title: str, text: str, variables: Sequence[tuple[str, str, str]], sections: Sequence[Section]
) -> model.Dashboard:
    """Sections of panels below each other; within one, panels fill lines from left to right.

    Args:
        variables: names, shown names and queries of what the reader may choose several of.

    """
    board = Dashboard(title).uid(uid).description(text).tags(["lccl"]).readonly().refresh("5s").time("now-15m", "now")
    board.tooltip(model.DashboardCursorSync.CROSSHAIR).annotations([])
    board.link(DashboardLink("LCCL").type(model.DashboardLinkType.DASHBOARDS).tags(["lccl"]).keep_time(True))
    for name, shown, query in variables:
        board.with_variable(_variable(name, shown, query))
    for heading, panels in sections:
        board.with_row(Row(heading))
        for panel in panels:
            board.with_panel(panel)
    built = board.build()
    for identity, each in enumerate(built.panels or [], start=1):
        each.id_val = identity
    return built


def _variable(name: str, shown: str, query: str) -> QueryVariable:
    asked: dict[str, object] = {"qryType": 1, "query": query, "refId": name}
    variable = QueryVariable(name).label(shown).datasource(SOURCE).query(asked)
    variable.refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(model.VariableSort.ALPHABETICAL_ASC)
    variable.multi(True).include_all(True).all_value(".+")
    return variable.current(model.VariableOption(text=["All"], value=["$__all"]))


def _steps(steps: Sequence[tuple[str, float | None]]) -> list[model.Threshold]:
    return [model.Threshold(value=value, color=colour) for colour, value in steps]
