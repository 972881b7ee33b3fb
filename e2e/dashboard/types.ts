// What a dashboard of ours must be: Grafana's own types, with those of each kind of panel in place of `Record`.
// A test writes `import type { Ours } from "./types"; export const dashboard: Ours = <the JSON>;` and compiles that, as
// an imported JSON file would have lost its literals.
import type { AnnotationQuery, Dashboard, DataQuery, Panel, RowPanel } from "@grafana/schema";
import type { Options as BarGauge } from "@grafana/schema/dist/esm/raw/composable/bargauge/panelcfg/x/BarGaugePanelCfg_types.gen";
import type { Options as Stat } from "@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen";
import type {
  FieldConfig as TimelineField,
  Options as Timeline,
} from "@grafana/schema/dist/esm/raw/composable/statetimeline/panelcfg/x/StateTimelinePanelCfg_types.gen";
import type {
  FieldConfig as SeriesField,
  Options as Series,
} from "@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen";

/** JSON has no enums: where Grafana's types name one, its value is meant. */
type Plain<T> = T extends string
  ? `${T}`
  : T extends number | boolean | null | undefined
    ? T
    : T extends readonly (infer Item)[]
      ? Plain<Item>[]
      : T extends object
        ? { [Key in keyof T]: Plain<T[Key]> }
        : T;

/** Its options and custom fields are open maps in the general type; `Omit` closes them. */
type Closed<T, Keys extends keyof T> = Pick<T, Exclude<keyof T, Keys>>;

/** A query to Prometheus, as its data source defines it (that package can't be had without all of Grafana). */
interface Query extends DataQuery {
  editorMode: "code";
  expr: string;
  instant: boolean;
  interval?: string;
  legendFormat: string;
  range: boolean;
}

type Defaults = NonNullable<Panel["fieldConfig"]>["defaults"];
type FieldConfig<Custom> = Closed<NonNullable<Panel["fieldConfig"]>, "defaults"> & {
  defaults: Closed<Defaults, "custom"> & { custom?: Custom };
};
/** Every panel says what it shows, in which unit and how it is read. */
type PanelOf<Type extends string, Options, Custom> = Closed<
  Panel,
  "type" | "options" | "fieldConfig" | "targets" | "title" | "description"
> & {
  type: Type;
  title: string;
  description: string;
  options: Options;
  fieldConfig: FieldConfig<Custom>;
  targets: Query[];
};
type Panels =
  | PanelOf<"timeseries", Series, SeriesField>
  | PanelOf<"state-timeline", Timeline, TimelineField>
  | PanelOf<"stat", Stat, never>
  | PanelOf<"bargauge", BarGauge, never>
  | RowPanel;

type Event = Closed<AnnotationQuery, "target"> & { target: Query; titleFormat: string; textFormat: string };

export type Ours = Plain<
  Closed<Dashboard, "panels" | "annotations"> & { panels: Panels[]; annotations: { list: Event[] } }
>;
