package stock;

import java.util.List;

import org.apache.lucene.util.Version;
import org.elasticsearch.Build;
import org.elasticsearch.client.internal.node.NodeClient;
import org.elasticsearch.cluster.service.ClusterService;
import org.elasticsearch.rest.BaseRestHandler;
import org.elasticsearch.rest.RestRequest;
import org.elasticsearch.rest.RestResponse;
import org.elasticsearch.rest.RestStatus;
import org.elasticsearch.xcontent.XContentBuilder;

/** GET and HEAD of `/`: who this node is; clients ask it before they talk to a server. */
final class RootHandler extends BaseRestHandler {
    private final ClusterService clusterService;

    RootHandler(ClusterService clusterService) {
        this.clusterService = clusterService;
    }

    @Override
    public String getName() {
        return "main_action";
    }

    @Override
    public List<Route> routes() {
        return List.of(new Route(RestRequest.Method.GET, "/"), new Route(RestRequest.Method.HEAD, "/"));
    }

    @Override
    protected RestChannelConsumer prepareRequest(RestRequest request, NodeClient client) {
        return channel -> {
            Build build = Build.current();
            XContentBuilder answer = channel.newBuilder();
            answer.startObject();
            answer.field("name", clusterService.getNodeName());
            answer.field("cluster_name", clusterService.getClusterName().value());
            answer.field("cluster_uuid", clusterService.state().metadata().clusterUUID());
            answer.startObject("version");
            answer.field("number", build.qualifiedVersion());
            answer.field("build_flavor", build.flavor());
            answer.field("build_type", build.type().displayName());
            answer.field("build_hash", build.hash());
            answer.field("build_date", build.date());
            answer.field("build_snapshot", build.isSnapshot());
            answer.field("lucene_version", Version.LATEST.toString());
            answer.field("minimum_wire_compatibility_version", build.minWireCompatVersion());
            answer.field("minimum_index_compatibility_version", build.minIndexCompatVersion());
            answer.endObject();
            answer.field("tagline", "You Know, for Search");
            answer.endObject();
            channel.sendResponse(new RestResponse(RestStatus.OK, answer));
        };
    }
}
